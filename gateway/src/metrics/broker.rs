//! The front door: connections, sessions, publishes, subscribers.

use super::{Plain, counter, gauge};

pub(super) const BROKER: &[Plain] = &[
    gauge(
        "gateway_broker_connections_open",
        "Connections open now, also those that have not sent CONNECT",
        |a| a.status.broker.connections_open,
    ),
    counter(
        "gateway_broker_connections",
        "TCP connections accepted",
        |a| a.status.broker.connections_total,
    ),
    gauge(
        "gateway_broker_sessions_open",
        "Devices and subscribers connected now",
        |a| a.status.broker.sessions_open,
    ),
    counter("gateway_broker_sessions", "Sessions ever connected", |a| {
        a.status.broker.sessions_total
    }),
    counter(
        "gateway_broker_refused_connection_limit",
        "Connections refused because connections_max are open",
        |a| a.status.broker.refused_connection_limit,
    ),
    counter(
        "gateway_broker_refused_connect_timeout",
        "Connections that sent no complete CONNECT in time",
        |a| a.status.broker.refused_connect_timeout,
    ),
    counter(
        "gateway_broker_handshakes_given_up",
        "Connections that the client closed before its handshakes were over",
        |a| a.status.broker.handshakes_given_up,
    ),
    counter(
        "gateway_broker_handshakes_crowded",
        "Connections that were the slowest when too many handshakes were under way",
        |a| a.status.broker.handshakes_crowded,
    ),
    counter(
        "gateway_broker_proxy_refused",
        "Connections without a PROXY header where there has to be one, or from where none may come",
        |a| a.status.broker.proxy_refused,
    ),
    counter(
        "gateway_broker_websocket_refused",
        "Connections whose WebSocket request was refused",
        |a| a.status.broker.websocket_refused,
    ),
    counter(
        "gateway_broker_tls_plain_text",
        "Clients that did not speak TLS on a port that does nothing else",
        |a| a.status.broker.tls_plain_text,
    ),
    counter(
        "gateway_broker_tls_incompatible",
        "Clients with no TLS version or cipher in common with the gateway",
        |a| a.status.broker.tls_incompatible,
    ),
    counter(
        "gateway_broker_tls_certificate_refused",
        "Clients whose certificate was missing, unknown, expired or revoked",
        |a| a.status.broker.tls_certificate_refused,
    ),
    counter(
        "gateway_broker_tls_refused_by_client",
        "Clients that refused the gateway's certificate or settings",
        |a| a.status.broker.tls_refused_by_client,
    ),
    counter(
        "gateway_broker_tls_failed",
        "Clients whose TLS handshake failed otherwise",
        |a| a.status.broker.tls_failed,
    ),
    gauge(
        "gateway_broker_certificate_not_after_timestamp_seconds",
        "When the first of the listeners' certificates ends; 0 without any",
        |a| a.status.broker.certificate_ends,
    ),
    counter(
        "gateway_broker_refused_protocol",
        "Connections whose CONNECT was malformed or of an unknown protocol",
        |a| a.status.broker.refused_protocol,
    ),
    counter(
        "gateway_broker_refused_client_id",
        "Connections refused for their client identifier",
        |a| a.status.broker.refused_client_id,
    ),
    counter(
        "gateway_broker_refused_takeover_timeout",
        "Connections whose predecessor under the same identifier did not end in time",
        |a| a.status.broker.refused_takeover_timeout,
    ),
    counter(
        "gateway_broker_refused_memory",
        "Connections refused because all sessions together keep too much",
        |a| a.status.broker.refused_memory,
    ),
    counter(
        "gateway_broker_packets_stalled",
        "Connections closed because a packet that had begun did not arrive",
        |a| a.status.broker.packets_stalled,
    ),
    counter(
        "gateway_broker_auth_allowed",
        "Clients let in after they were asked who they are",
        |a| a.status.broker.auth_allowed,
    ),
    counter(
        "gateway_broker_auth_denied",
        "Clients turned away because of who they are, or are not",
        |a| a.status.broker.auth_denied,
    ),
    counter(
        "gateway_broker_auth_locked",
        "Clients turned away because of too many failed logins",
        |a| a.status.broker.auth_locked,
    ),
    counter(
        "gateway_broker_auth_unanswered",
        "Clients turned away because it could not be found out in time who they are",
        |a| a.status.broker.auth_unanswered,
    ),
    counter(
        "gateway_broker_passwords_checked",
        "Passwords checked against their hash; remembered ones are not",
        |a| a.status.broker.passwords_checked,
    ),
    counter(
        "gateway_broker_auth_questions",
        "Questions put to the authentication service; remembered answers are not",
        |a| a.status.broker.hook_questions,
    ),
    counter(
        "gateway_broker_publishes_denied",
        "Publishes that their client had no right to, dropped",
        |a| a.status.broker.publishes_denied,
    ),
    counter(
        "gateway_broker_subscriptions_denied",
        "Filters of SUBSCRIBE refused for want of a right",
        |a| a.status.broker.subscriptions_denied,
    ),
    counter(
        "gateway_broker_sessions_revoked",
        "Sessions ended because their token expired, or users or rules changed",
        |a| a.status.broker.sessions_revoked,
    ),
    counter(
        "gateway_broker_audit_held_back",
        "Lines of the audit log that were not written because there were too many",
        |a| a.status.broker.audit_held_back,
    ),
    counter(
        "gateway_broker_takeovers",
        "Sessions that ended because the client connected again",
        |a| a.status.broker.takeovers,
    ),
    counter(
        "gateway_broker_keep_alive_timeouts",
        "Sessions that ended because the client was silent",
        |a| a.status.broker.keep_alive_timeouts,
    ),
    counter(
        "gateway_broker_protocol_errors",
        "Sessions and connections ended for a malformed or illegal packet",
        |a| a.status.broker.protocol_errors,
    ),
    counter(
        "gateway_broker_packets_too_large",
        "Packets beyond packet_bytes_max, in or out",
        |a| a.status.broker.packets_too_large,
    ),
    counter(
        "gateway_broker_refused_address_limit",
        "Connections refused because connections_per_address_max are open from there",
        |a| a.status.broker.refused_address_limit,
    ),
    counter(
        "gateway_broker_refused_waiting",
        "Connections refused because too many, in all or from there, had not been let in yet",
        |a| a.status.broker.refused_waiting,
    ),
    counter(
        "gateway_broker_refused_identity_limit",
        "Connections refused because connections_per_identity_max are open under the user name",
        |a| a.status.broker.refused_identity_limit,
    ),
    counter(
        "gateway_broker_refused_connect_rate",
        "Connections refused because too many came in a short time, in all or from their address",
        |a| a.status.broker.refused_connect_rate,
    ),
    counter(
        "gateway_broker_publishes_paused",
        "Times a client was not read for a while because of its publish rate",
        |a| a.status.broker.publishes_paused,
    ),
    counter(
        "gateway_broker_topics_refused",
        "Publishes, wills and filters refused for their topic: reserved, malformed, too long or too deep",
        |a| a.status.broker.topics_refused,
    ),
    counter(
        "gateway_broker_subscriptions_refused",
        "Filters refused because their client, or all, had as many as they may",
        |a| a.status.broker.subscriptions_refused,
    ),
    counter(
        "gateway_broker_receive_max_exceeded",
        "Sessions that ended because a client exceeded the receive maximum",
        |a| a.status.broker.receive_max_exceeded,
    ),
    counter(
        "gateway_broker_memory_exceeded",
        "Sessions that ended because all together held too much to take more of them",
        |a| a.status.broker.memory_exceeded,
    ),
    gauge(
        "gateway_broker_memory_input_bytes",
        "What clients sent and was not settled yet, of a quarter of memory_max",
        |a| a.status.broker.memory_input_bytes,
    ),
    gauge(
        "gateway_broker_memory_output_bytes",
        "What waits to be sent to clients, of a quarter of memory_max",
        |a| a.status.broker.memory_output_bytes,
    ),
    gauge(
        "gateway_broker_memory_sessions_bytes",
        "What sessions keep as long as they last, of a quarter of memory_max",
        |a| a.status.broker.memory_sessions_bytes,
    ),
    gauge(
        "gateway_broker_memory_subscriptions_bytes",
        "What subscriptions take, estimated, of a quarter of memory_max",
        |a| a.status.broker.memory_subscriptions_bytes,
    ),
    counter(
        "gateway_broker_kicked",
        "Sessions that an operator ended",
        |a| a.status.broker.kicked,
    ),
    counter(
        "gateway_broker_packets_in",
        "Packets of every kind received in a session",
        |a| a.status.broker.packets_in,
    ),
    counter(
        "gateway_broker_answers",
        "Packets sent in answer to others than publishes",
        |a| a.status.broker.answers,
    ),
    gauge(
        "gateway_broker_sessions_max",
        "Most sessions that were connected at the same time",
        |a| a.status.broker.sessions_max,
    ),
    counter("gateway_broker_in_bytes", "Bytes read from devices", |a| {
        a.status.broker.bytes_in
    }),
    counter(
        "gateway_broker_out_bytes",
        "Bytes written to devices",
        |a| a.status.broker.bytes_out,
    ),
    counter(
        "gateway_broker_payload_in_bytes",
        "Bytes of payloads of publishes received, resent ones not counted",
        |a| a.status.broker.payload_bytes_in,
    ),
    counter(
        "gateway_broker_payload_out_bytes",
        "Bytes of payloads of messages sent to subscribers",
        |a| a.status.broker.payload_bytes_out,
    ),
    counter(
        "gateway_broker_accepted",
        "Publishes kept by the gateway",
        |a| a.status.broker.accepted,
    ),
    counter(
        "gateway_broker_duplicates",
        "Publishes the gateway knew already",
        |a| a.status.broker.duplicates,
    ),
    counter(
        "gateway_broker_resent",
        "Publishes resent on their own connection, not handed on again",
        |a| a.status.broker.resent,
    ),
    counter(
        "gateway_broker_refused",
        "Publishes refused for good, by the gateway or for their topic",
        |a| a.status.broker.refused,
    ),
    counter(
        "gateway_broker_busy",
        "Times a publish found no room",
        |a| a.status.broker.busy,
    ),
    counter(
        "gateway_broker_lost",
        "Publishes whose fate was unknown; their sessions ended without acknowledgement",
        |a| a.status.broker.lost,
    ),
    counter(
        "gateway_broker_acknowledged",
        "PUBACK and PUBREC packets sent",
        |a| a.status.broker.acknowledged,
    ),
    counter("gateway_broker_wills", "Will messages published", |a| {
        a.status.broker.wills
    }),
    counter(
        "gateway_broker_wills_lost",
        "Will messages that could not be handed over",
        |a| a.status.broker.wills_lost,
    ),
    gauge(
        "gateway_broker_subscriptions",
        "Subscriptions that exist now",
        |a| a.status.broker.subscriptions,
    ),
    counter(
        "gateway_broker_delivered",
        "Messages sent to subscribers",
        |a| a.status.broker.delivered,
    ),
    counter(
        "gateway_broker_dropped_queue_full",
        "Messages a subscriber did not get because its queue, or what all may hold, was full",
        |a| a.status.broker.dropped_queue_full,
    ),
    counter(
        "gateway_broker_dropped_shared",
        "Messages of a shared subscription that no member was left for, or had room for",
        |a| a.status.broker.dropped_shared,
    ),
    counter(
        "gateway_broker_dropped_too_large",
        "Messages a subscriber did not get because of its Maximum Packet Size",
        |a| a.status.broker.dropped_too_large,
    ),
    counter(
        "gateway_broker_dropped_expired",
        "Messages that expired in a subscriber's queue",
        |a| a.status.broker.dropped_expired,
    ),
    counter(
        "gateway_broker_dropped_revoked",
        "Messages a client did not get because it lost the right to them while it was away",
        |a| a.status.broker.dropped_revoked,
    ),
    counter(
        "gateway_broker_dropped_router",
        "Live messages lost between commit and fan-out",
        |a| a.status.broker.dropped_router,
    ),
    counter(
        "gateway_broker_router_restarts",
        "Times the router was rebuilt",
        |a| a.status.broker.router_restarts,
    ),
    counter(
        "gateway_broker_unknown_acks",
        "Acknowledgements from subscribers for packets that were not in flight",
        |a| a.status.broker.unknown_acks,
    ),
    gauge(
        "gateway_broker_retained",
        "Retained messages held now",
        |a| a.status.broker.retained,
    ),
    gauge(
        "gateway_broker_retained_bytes",
        "Bytes of the retained messages held now",
        |a| a.status.broker.retained_bytes,
    ),
    gauge(
        "gateway_broker_sessions_kept",
        "Persistent sessions that exist now, connected or not",
        |a| a.status.broker.sessions_kept,
    ),
    counter(
        "gateway_broker_sessions_expired",
        "Persistent sessions that ended because their clients stayed away",
        |a| a.status.broker.sessions_expired,
    ),
    counter(
        "gateway_broker_refused_sessions_max",
        "Connections refused because there are sessions_max persistent sessions",
        |a| a.status.broker.refused_sessions_max,
    ),
    counter(
        "gateway_broker_refused_sessions_per_user_max",
        "Connections refused because their user has sessions_per_user_max persistent sessions",
        |a| a.status.broker.refused_sessions_per_user_max,
    ),
    gauge(
        "gateway_broker_subscriptions_kept",
        "Subscriptions of persistent sessions",
        |a| a.status.broker.subscriptions_kept,
    ),
    gauge(
        "gateway_broker_queued_messages",
        "Messages in the queues of persistent sessions, those in flight included",
        |a| a.status.broker.queued_messages,
    ),
    gauge(
        "gateway_broker_queued_bytes",
        "Bytes in the queues of persistent sessions",
        |a| a.status.broker.queued_bytes,
    ),
    counter(
        "gateway_broker_dropped_kept_queue_full",
        "Messages a persistent session did not get because its queue was full",
        |a| a.status.broker.dropped_kept_queue_full,
    ),
    counter(
        "gateway_broker_dropped_kept_disk_full",
        "Messages of the gateway itself, and wills, that persistent sessions, or later subscribers, did not get because the disk of broker.db was full",
        |a| a.status.broker.dropped_kept_disk_full,
    ),
    counter(
        "gateway_broker_refused_queue_full",
        "Times a publish was refused or held because a queue, the store of retained messages, or the disk of broker.db was full",
        |a| a.status.broker.refused_queue_full,
    ),
    counter(
        "gateway_broker_keep_full",
        "Times that broker.db had no more room, and connections refused or ended because of it",
        |a| a.status.broker.keep_full,
    ),
    counter(
        "gateway_broker_kept_damaged",
        "Queued or retained messages that were damaged on disk, and are gone",
        |a| a.status.broker.kept_damaged,
    ),
    counter(
        "gateway_broker_keep_set_aside",
        "Times a damaged broker.db was set aside",
        |a| a.status.broker.keep_set_aside,
    ),
    counter(
        "gateway_broker_retained_refused",
        "Times a retained message found their store full: refused or held, or not retained",
        |a| a.status.broker.retained_refused,
    ),
    gauge(
        "gateway_broker_retained_owed",
        "Retained messages in memory only: wills that wait for room on disk",
        |a| a.status.broker.retained_owed,
    ),
    counter(
        "gateway_broker_retained_cleared",
        "Empty retained messages: they clear one, and are not kept",
        |a| a.ingest.retained_cleared(),
    ),
];
