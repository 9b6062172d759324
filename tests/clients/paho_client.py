"""Eclipse Paho's Python client against a broker, with the callbacks of version 1 or 2.

    paho_client.py PORT PROTOCOL TOPIC

PROTOCOL is 4 (MQTT 3.1.1) or 5. Subscribes below TOPIC, publishes at every QoS, asks
for a retained message and waits for a will; says DONE and its version when all came.
"""

import queue
import sys

import paho.mqtt
import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

PORT, PROTOCOL, TOPIC = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
IS_V5 = PROTOCOL == 5
IS_NEW = hasattr(mqtt, "CallbackAPIVersion")
LONG = 20


class Client:
    """A client whose callbacks end in queues."""

    def __init__(self, name, will=None):
        name = f"{TOPIC.replace('/', '-')}-{name}"
        first = [mqtt.CallbackAPIVersion.VERSION2] if IS_NEW else []
        clean = {} if IS_V5 else {"clean_session": True}
        self.client = mqtt.Client(*first, client_id=name, protocol=PROTOCOL, **clean)
        self.connected, self.granted = queue.Queue(), queue.Queue()
        self.published, self.messages = queue.Queue(), queue.Queue()
        self.client.on_connect = self.on_connect
        self.client.on_subscribe = self.on_subscribe
        self.client.on_publish = self.on_publish
        self.client.on_message = lambda client, data, message: self.messages.put(message)
        if will:
            self.client.will_set(will, "died", qos=1)
        self.client.connect("127.0.0.1", PORT)
        self.client.loop_start()
        reason = self.connected.get(timeout=LONG)
        assert reason == 0, f"connected with {reason}"

    # The signatures differ between the versions of the callbacks, not what is at which
    # place from the left up to here.
    def on_connect(self, client, data, flags, reason, *rest):
        self.connected.put(reason)

    def on_subscribe(self, client, data, mid, codes, *rest):
        codes = list(codes)
        self.granted.put([getattr(code, "value", code) for code in codes])

    def on_publish(self, client, data, mid, *rest):
        self.published.put(mid)

    def subscribe(self, topic, qos):
        self.client.subscribe(topic, qos)
        granted = self.granted.get(timeout=LONG)
        assert granted == [qos], f"granted {granted} instead of {qos}"

    def message(self):
        return self.messages.get(timeout=LONG)

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


def properties():
    if not IS_V5:
        return {}
    found = Properties(PacketTypes.PUBLISH)
    found.UserProperty = [("b", "1"), ("a", "2")]
    found.ResponseTopic = f"{TOPIC}/answers"
    found.CorrelationData = b"17"
    return {"properties": found}


listener = Client("listener")
listener.subscribe(f"{TOPIC}/live", 2)
listener.subscribe(f"{TOPIC}/will", 1)
publisher = Client("publisher")
for qos in (0, 1, 2):
    publisher.client.publish(f"{TOPIC}/live", str(qos), qos=qos, **properties())
    publisher.published.get(timeout=LONG)
    message = listener.message()
    assert (message.payload, message.qos) == (str(qos).encode(), qos), message.payload
    assert message.topic == f"{TOPIC}/live" and not message.retain
    if IS_V5:
        assert message.properties.UserProperty == [("b", "1"), ("a", "2")]
        assert message.properties.ResponseTopic == f"{TOPIC}/answers"
        assert message.properties.CorrelationData == b"17"

publisher.client.publish(f"{TOPIC}/kept", "21.5", qos=1, retain=True)
publisher.published.get(timeout=LONG)
late = Client("late")
late.subscribe(f"{TOPIC}/kept", 1)
message = late.message()
assert message.retain and message.payload == b"21.5"
late.close()

dying = Client("dying", will=f"{TOPIC}/will")
dying.client.loop_stop()
dying.client.socket().close()
message = listener.message()
assert (message.topic, message.payload) == (f"{TOPIC}/will", b"died"), message.topic

publisher.close()
listener.close()
print("DONE", paho.mqtt.__version__, flush=True)
