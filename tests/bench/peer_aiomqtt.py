"""A handler on aiomqtt that acknowledges a message when it is done with it, as ours does.

`peer_aiomqtt.py PORT NAME QOS WINDOW [early]`. By itself aiomqtt acknowledges a message when it
arrives and loses it when the handler fails: unless `early` is said, paho inside of it must not.
"""

import asyncio
import socket
import sys

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

port, name, qos, window = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
early = "early" in sys.argv[5:]
properties = Properties(PacketTypes.CONNECT)
properties.ReceiveMaximum = window


async def main():
    client = aiomqtt.Client(
        "127.0.0.1",
        port,
        identifier=name,
        protocol=aiomqtt.ProtocolVersion.V5,
        properties=properties,
        # without it each answer waits for the kernel of the other side: 40 ms
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
    )
    async with client:
        client._client.manual_ack_set(not early)
        await client.subscribe(f"{name}/sensors/+/temperature", qos)
        print("ready", flush=True)
        async for message in client.messages:
            if float(message.payload) > 25:
                level = message.topic.value.split("/")[2]
                await client.publish(f"{name}/alerts/{level}", message.payload, qos)
            if message.qos and not early:
                client._client.ack(message.mid, message.qos)


asyncio.run(main())
