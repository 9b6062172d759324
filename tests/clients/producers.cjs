// Libraries for Node.js that devices are built with, publishing to a broker.
//
//     node producers.cjs PORT cloudevents|influx|homie|sparkplug
//
// Each says DONE when everything it has to say was sent, and acknowledged where the
// library waits for that. What the broker makes of it is for the caller to look at.

"use strict";

const mqtt = require("mqtt");

const [port, which] = process.argv.slice(2);
const url = `mqtt://127.0.0.1:${port}`;
// 2026-03-01T11:59:50.123456789Z; the caller's clock is later.
const AT = "1772366390123456789";

/** Publishes at QoS 1, and waits for the acknowledgement. */
const connected = (clientId) => mqtt.connectAsync(url, { clientId, protocolVersion: 5 });

/** The SDK of the CloudEvents project, with the binding of MQTT that it has. */
async function cloudevents() {
  const { CloudEvent, MQTT } = require("cloudevents");
  const event = new CloudEvent({
    id: "e-1",
    source: "/plant/line-1",
    type: "com.example.reading",
    subject: "press-7",
    time: "2026-03-01T11:59:50.123Z",
    datacontenttype: "application/json",
    line: "L1",
    data: { temperature: 21.5, running: true },
  });
  const client = await connected("cloudevents-sdk");
  for (const form of ["structured", "binary"]) {
    const message = MQTT[form](event);
    const said = Object.entries(message["User Properties"]).filter(([, value]) => value !== undefined);
    const properties = { contentType: message.PUBLISH["Content Type"] };
    // MQTT.js cannot write none.
    if (said.length > 0) properties.userProperties = Object.fromEntries(said);
    await client.publishAsync(`ce/${form}`, JSON.stringify(message.payload), { qos: 1, properties });
  }
  await client.endAsync();
}

/** What the client of InfluxDB writes, with all that has to be escaped. */
async function influx() {
  const { Point } = require("@influxdata/influxdb-client");
  const full = new Point("env room")
    .tag("host", "h 1")
    .tag("line", "L=1,2")
    .floatField("t", 21.5)
    .intField("n", -7)
    .uintField("total", "18446744073709551615")
    .booleanField("ok", true)
    .stringField("note", 'a "q" \\ b\nc')
    .timestamp(AT);
  const bare = new Point("env").tag("host", "h2").floatField("t", 1e21).timestamp(AT);
  const client = await connected("influxdb-client");
  const lines = [full, bare].map((point) => point.toLineProtocol()).join("\n");
  await client.publishAsync("influx/gateway", lines, { qos: 1 });
  await client.endAsync();
}

/** A device of the Homie convention, version 3. */
async function homie() {
  const HomieDevice = require("homie-device");
  const device = new HomieDevice({ name: "Cellar", device_id: "cellar", mqtt: { host: "127.0.0.1", port, base_topic: "homie/" } });
  const climate = device.node("climate", "Climate", "sensor");
  climate.advertise("temperature").setName("Temperature").setUnit("\u00b0C").setDatatype("float");
  device.setup(true);
  await new Promise((resolve) => device.once("connect", resolve));
  // A text of which nothing but the description of the property says that it is a number.
  climate.setProperty("temperature").send("21.5");
  climate.setProperty("temperature").send("-3");
  device.end();
  await new Promise((resolve) => device.once("disconnect", resolve));
}

/** An edge node of Eclipse Tahu, that compresses some of what it says. */
async function sparkplug() {
  const client = require("sparkplug-client").newClient({
    serverUrl: url,
    username: null,
    password: null,
    groupId: "Plant",
    edgeNode: "Tahu",
    clientId: "tahu",
    version: "spBv1.0",
    publishDeath: true,
  });
  const now = Date.now();
  const metric = (name, type, value, more) => ({ name, type, value, timestamp: now, ...more });
  await new Promise((resolve) => client.once("birth", resolve));
  client.publishNodeBirth({
    timestamp: now,
    metrics: [
      metric("Node Control/Rebirth", "Boolean", false),
      metric("Level", "Int16", -5, { alias: 1, properties: { engUnit: { type: "String", value: "mm" } } }),
      metric("Total", "UInt64", 5, { alias: 2 }),
    ],
  });
  client.publishDeviceBirth("Press", { timestamp: now, metrics: [metric("Force", "Double", 1.5)] }, { compress: true });
  client.publishNodeData({ timestamp: now + 1, metrics: [metric("Level", "Int16", -6)] });
  client.publishNodeData({ timestamp: now + 2, metrics: [metric("Level", "Int16", -7)] }, { compress: true, algorithm: "GZIP" });
  client.publishDeviceData("Press", { timestamp: now + 3, metrics: [metric("Force", "Double", 2.5)] }, { compress: true });
  client.publishDeviceDeath("Press", { timestamp: now + 4, metrics: [] });
  client.stop();
  await new Promise((resolve) => client.once("close", resolve));
}

const all = { cloudevents, influx, homie, sparkplug };
all[which]().then(() => {
  console.log(`DONE ${which}`);
  process.exit(0);
});
