"""Libraries that devices are built with, publishing to a broker.

    producers.py PORT cloudevents|senml|homie

Each says DONE when everything it has to say is acknowledged. What the broker makes of
it is for the caller to look at.
"""

import sys
import time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

PORT, WHICH = int(sys.argv[1]), sys.argv[2]
LONG = 20
# 2026-03-01T11:59:50.123Z; the caller's clock is later.
AT = 1772366390.123


def connected(name):
    client = mqtt.Client(client_id=name, protocol=mqtt.MQTTv5)
    client.connect("127.0.0.1", PORT)
    client.loop_start()
    return client


def publish(client, topic, payload, content_type=None, user=()):
    properties = Properties(PacketTypes.PUBLISH)
    if content_type:
        properties.ContentType = content_type
    if user:
        properties.UserProperty = list(user)
    sent = client.publish(topic, payload, qos=1, properties=properties)
    sent.wait_for_publish(LONG)
    assert sent.is_published(), topic


def cloudevents():
    """The SDK of the CloudEvents project: structured, and binary as the binding of MQTT
    has it; the SDK has none of its own."""
    from datetime import datetime, timezone

    from cloudevents.core.formats.json import JSONFormat
    from cloudevents.core.v1.event import CloudEvent

    client = connected("cloudevents-sdk")
    attributes = {
        "id": "e-1",
        "source": "/plant/line-1",
        "type": "com.example.reading",
        "specversion": "1.0",
        "subject": "press-7",
        "time": datetime.fromtimestamp(AT, timezone.utc),
        "datacontenttype": "application/json",
        "line": "L1",
    }
    data = {"temperature": 21.5, "running": True, "count": 9007199254740993}
    event = CloudEvent(attributes, data)
    structured = JSONFormat().write(event)
    content_type = "application/cloudevents+json"
    publish(client, "ce/structured", structured, content_type)
    # The same once more is a resend, whatever its form.
    publish(client, "ce/structured", structured, content_type)
    user = [
        (name, value.isoformat() if name == "time" else value)
        for name, value in event.get_attributes().items()
        if name != "datacontenttype"
    ]
    body = JSONFormat().write_data(event.get_data(), "application/json")
    publish(client, "ce/structured", body, "application/json", user)
    raw = CloudEvent({**attributes, "id": "e-2", "datacontenttype": "application/octet-stream"}, b"\x00\xff")
    publish(client, "ce/structured", JSONFormat().write(raw), content_type)
    client.disconnect()


def senml():
    """A library for SenML, in JSON and in CBOR. It cannot write texts under Python 3."""
    from kpn_senml import SenmlPack, SenmlRecord, SenmlUnits

    def pack():
        pack = SenmlPack("urn:dev:ow:10e2073a01080063:")
        pack.base_time = AT
        pack.base_unit = SenmlUnits.SENML_UNIT_DEGREES_CELSIUS
        pack.base_value = 20
        pack.add(SenmlRecord("temp", value=21.5))
        pack.add(SenmlRecord("hum", unit=SenmlUnits.SENML_UNIT_RELATIVE_HUMIDITY, value=40, time=AT + 5))
        pack.add(SenmlRecord("open", value=True))
        return pack

    client = connected("senml-library")
    publish(client, "senml/json", pack().to_json(), "application/senml+json")
    publish(client, "senml/cbor", bytes(pack().to_cbor()), "application/senml+cbor")
    client.disconnect()


def homie():
    """A device of the Homie convention, version 4."""
    from homie.device_temperature import Device_Temperature

    device = Device_Temperature(
        device_id="attic",
        name="Attic",
        mqtt_settings={"MQTT_BROKER": "127.0.0.1", "MQTT_PORT": PORT},
        temp_units="C",
    )
    deadline = time.monotonic() + LONG
    while not device.mqtt_client.mqtt_connected:
        assert time.monotonic() < deadline, "no connection"
        time.sleep(0.05)
    device.update_temperature(21.5)
    device.update_temperature(22)
    device.state = "disconnected"
    # The library says nothing of acknowledgements: the last message is looked for.
    time.sleep(2)


{"cloudevents": cloudevents, "senml": senml, "homie": homie}[WHICH]()
print(f"DONE {WHICH}", flush=True)
