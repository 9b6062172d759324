"""A Sparkplug edge node built with pysparkplug.

    sparkplug_node.py PORT born|orphan

`born` is born with a device, sends data by aliases alone, leaves out a number, and waits
until it is asked to be born again. `orphan` sends data by an alias without a birth, as a
node does whose host application has been restarted, and waits to be asked. Both say DONE.
"""

import queue
import sys

from pysparkplug import (
    Client,
    DataType,
    DBirth,
    DData,
    Message,
    MessageType,
    Metric,
    NBirth,
    NData,
    QoS,
    Topic,
    get_current_timestamp,
)

PORT, MODE = int(sys.argv[1]), sys.argv[2]
GROUP, NODE, DEVICE = "Plant", "Edge", "Press"
LONG = 30


class Node:
    """A node that counts its messages."""

    def __init__(self):
        self.seq = 0
        self.commands, self.connected = queue.Queue(), queue.Queue()
        self.client = Client(client_id="sparkplug-edge")
        topic = Topic(message_type=MessageType.NCMD, group_id=GROUP, edge_node_id=NODE)
        self.client.subscribe(topic, QoS.AT_LEAST_ONCE, lambda _, message: self.commands.put(message))
        self.client.connect("127.0.0.1", port=PORT, callback=lambda _: self.connected.put(True))
        self.connected.get(timeout=LONG)

    def send(self, kind, payload, metrics, device=None):
        topic = Topic(message_type=kind, group_id=GROUP, edge_node_id=NODE, device_id=device)
        payload = payload(timestamp=get_current_timestamp(), seq=self.seq, metrics=metrics)
        self.seq = (self.seq + 1) % 256
        message = Message(topic=topic, payload=payload, qos=QoS.AT_MOST_ONCE, retain=False)
        self.client.publish(message, include_dtypes=payload.__class__.__name__.endswith("Birth"))

    def birth(self, alias):
        now = get_current_timestamp()
        self.seq = 0
        temperature = Metric(now, "Temperature", DataType.INT16, value=-5, alias=alias)
        label = Metric(now, "Label", DataType.STRING, value="hall", alias=alias + 1)
        session = Metric(now, "bdSeq", DataType.INT64, value=0)
        self.send(MessageType.NBIRTH, NBirth, (temperature, label, session))
        force = Metric(now, "Force", DataType.FLOAT, value=1.5, alias=alias + 2)
        self.send(MessageType.DBIRTH, DBirth, (force,), DEVICE)

    def data(self, alias, value):
        metric = Metric(get_current_timestamp(), None, DataType.INT16, value=value, alias=alias)
        self.send(MessageType.NDATA, NData, (metric,))

    def asked(self):
        message = self.commands.get(timeout=LONG)
        names = [metric.name for metric in message.payload.metrics]
        assert names == ["Node Control/Rebirth"], names
        assert message.payload.metrics[0].value is True


node = Node()
if MODE == "born":
    node.birth(10)
    node.data(10, -6)
    force = Metric(get_current_timestamp(), None, DataType.FLOAT, value=2.5, alias=12)
    node.send(MessageType.DDATA, DData, (force,), DEVICE)
    node.seq += 1
    node.data(10, -7)
    node.asked()
    # Other numbers for the same names.
    node.birth(20)
    node.data(20, -8)
else:
    node.data(20, -9)
    node.asked()
    node.birth(30)
    node.data(30, -10)
node.client.disconnect()
print(f"DONE {MODE}", flush=True)
