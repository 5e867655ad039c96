"""A handler on aiomqtt that acknowledges a message when it is done with it, as ours does.

`peer_aiomqtt.py PORT NAME QOS WINDOW`. By itself aiomqtt acknowledges when a message arrives: the
client of paho inside of it is told not to.
"""

import asyncio
import sys

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

port, name, qos, window = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
properties = Properties(PacketTypes.CONNECT)
properties.ReceiveMaximum = window


async def main():
    options = {"identifier": name, "protocol": aiomqtt.ProtocolVersion.V5}
    async with aiomqtt.Client("127.0.0.1", port, properties=properties, **options) as client:
        client._client.manual_ack_set(True)
        await client.subscribe(f"{name}/sensors/+/temperature", qos)
        print("ready", flush=True)
        async for message in client.messages:
            if float(message.payload) > 25:
                level = message.topic.value.split("/")[2]
                await client.publish(f"{name}/alerts/{level}", message.payload, qos)
            if message.qos:
                client._client.ack(message.mid, message.qos)


asyncio.run(main())
