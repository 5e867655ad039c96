"""The floor: paho-mqtt alone, its own loop, no asyncio. `peer_paho.py PORT NAME QOS WINDOW`."""

import socket
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

port, name, qos, window = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
properties = Properties(PacketTypes.CONNECT)
properties.ReceiveMaximum = window


def connected(client, *_):
    client.subscribe(f"{name}/sensors/+/temperature", qos)


def message(client, _, received):
    if float(received.payload) > 25:
        client.publish(f"{name}/alerts/{received.topic.split('/')[2]}", received.payload, qos)


client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, name, protocol=mqtt.MQTTv5)
client.on_connect, client.on_message = connected, message
client.on_subscribe = lambda *_: print("ready", flush=True)
client.on_socket_open = lambda _, __, s: s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
client.connect("127.0.0.1", port, properties=properties)
client.loop_forever()
