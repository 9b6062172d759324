//! Counters of the broker: written with relaxed atomics, read as a snapshot.
//!
//! Sessions add once per batch, not once per message. The counts of publishes
//! balance: every publish taken from the wire ends as accepted, duplicate,
//! refused, or lost; one that was busy is counted each time, and again under
//! how it ended.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A snapshot of the broker's counters. Totals since the start, except
        /// where the name says otherwise.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
        pub struct Metrics { $($(#[$doc])* pub $name: u64,)* }

        #[derive(Debug, Default)]
        pub(crate) struct Counters { $(pub(crate) $name: Counter,)* }

        impl Counters {
            pub(crate) fn snapshot(&self) -> Metrics {
                Metrics { $($name: self.$name.get(),)* }
            }
        }
    };
}

counters! {
    /// Connections that are open now, including those that have not sent CONNECT.
    connections_open,
    /// TCP connections accepted.
    connections_total,
    /// Sessions that are connected now (CONNACK sent).
    sessions_open,
    /// Sessions that were ever connected.
    sessions_total,
    /// Connections refused because `connections_max` are open.
    refused_connection_limit,
    /// Connections that sent no complete CONNECT in time.
    refused_connect_timeout,
    /// Connections that were closed by the client before its handshakes were over.
    handshakes_given_up,
    /// Connections that were the slowest when too many handshakes were under way.
    handshakes_crowded,
    /// Connections without a PROXY header where there has to be one, or from an address
    /// that may not send one.
    proxy_refused,
    /// Connections whose WebSocket request was refused.
    websocket_refused,
    /// Clients that did not speak TLS on a port that does nothing else.
    tls_plain_text,
    /// Clients with no TLS version or cipher in common with us.
    tls_incompatible,
    /// Clients whose certificate was missing, unknown, expired or revoked.
    tls_certificate_refused,
    /// Clients that refused our certificate or settings.
    tls_refused_by_client,
    /// Clients whose TLS handshake failed otherwise.
    tls_failed,
    /// When the first of the listeners' certificates ends, in seconds since 1970; 0 without.
    certificate_ends,
    /// Connections whose CONNECT was malformed or of an unknown protocol.
    refused_protocol,
    /// Connections refused for their client identifier.
    refused_client_id,
    /// Connections refused for a will that is more than all sessions may keep.
    refused_memory,
    /// Connections whose predecessor under the same identifier did not end in time.
    refused_takeover_timeout,
    /// Clients that were let in after they were asked who they are.
    auth_allowed,
    /// Clients that were turned away because of who they are, or are not.
    auth_denied,
    /// Clients that were turned away because of too many failed logins.
    auth_locked,
    /// Clients that were turned away because the authentication service did not answer,
    /// or a password could not be checked in time.
    auth_unanswered,
    /// Passwords that were checked against their hash; remembered ones are not.
    passwords_checked,
    /// Questions put to the authentication service; remembered answers are not.
    hook_questions,
    /// Publishes that their client had no right to, dropped.
    publishes_denied,
    /// Filters of SUBSCRIBE that were refused for want of a right.
    subscriptions_denied,
    /// Sessions that ended because their client may not stay: its token expired, or
    /// users or rules changed.
    sessions_revoked,
    /// Lines of the audit log that were not written because there were too many.
    audit_held_back,
    /// Sessions that ended because the client connected again.
    takeovers,
    /// Sessions that ended because the client was silent.
    keep_alive_timeouts,
    /// Sessions that ended because a packet began and did not come to its end in time.
    packets_stalled,
    /// Sessions or connections ended for a malformed or illegal packet.
    protocol_errors,
    /// Packets beyond `packet_bytes_max`, in or out.
    packets_too_large,
    /// Connections refused because their address had as many open as it may.
    refused_address_limit,
    /// Connections refused because too many had not been let in yet.
    refused_waiting,
    /// Connections refused because their user name had as many sessions as it may.
    refused_identity_limit,
    /// Connections refused because too many came in a short time, in all or from
    /// their address.
    refused_connect_rate,
    /// Times a client was not read for a while because of its publish rate.
    publishes_paused,
    /// Publishes, wills and filters refused for their topic: reserved, malformed, too
    /// long or too deep.
    topics_refused,
    /// Filters refused because their client, or all, had as many as they may.
    subscriptions_refused,
    /// Sessions that ended because a client exceeded the receive maximum.
    receive_max_exceeded,
    /// Sessions that ended because all together held too much to take more of them.
    memory_exceeded,
    /// Sessions that an operator ended.
    kicked,
    /// Packets of every kind received in a session.
    packets_in,
    /// Packets sent in answer to others than publishes.
    answers,
    /// Most sessions that were connected at the same time.
    sessions_max,
    /// Bytes read.
    bytes_in,
    /// Bytes written.
    bytes_out,
    /// QoS 0 publishes received.
    publishes_in_qos0,
    /// QoS 1 publishes received.
    publishes_in_qos1,
    /// QoS 2 publishes received, resent ones not counted.
    publishes_in_qos2,
    /// Bytes of the payloads of publishes received, resent ones not counted.
    payload_bytes_in,
    /// Bytes of the payloads of messages sent to subscribers.
    payload_bytes_out,
    /// Publishes kept by the gateway.
    accepted,
    /// Publishes the gateway knew already.
    duplicates,
    /// Publishes resent on their own connection, not handed on again.
    resent,
    /// Publishes refused for good, by the gateway, for their topic, or for want of a right.
    refused,
    /// Times a publish found no room.
    busy,
    /// Publishes whose fate was unknown; their sessions ended without acknowledgement.
    lost,
    /// PUBACK and PUBREC packets sent.
    acknowledged,
    /// Will messages published.
    wills,
    /// Will messages that could not be handed over.
    wills_lost,
    /// Subscriptions that exist now.
    subscriptions,
    /// Messages sent to subscribers.
    delivered,
    /// Messages a subscriber did not get because its queue was full, or the budget
    /// that all queues share was spent.
    dropped_queue_full,
    /// Messages of a shared subscription that no member was left for, or had room for.
    dropped_shared,
    /// Messages a subscriber did not get because they exceed its Maximum Packet Size.
    dropped_too_large,
    /// Messages that expired in a subscriber's queue.
    dropped_expired,
    /// Messages a client did not get because it lost the right to them while it was away.
    dropped_revoked,
    /// Live messages lost between commit and fan-out: the router was behind,
    /// evicted them, or was rebuilt.
    dropped_router,
    /// Times the router was rebuilt.
    router_restarts,
    /// Acknowledgements from subscribers for packets that were not in flight.
    unknown_acks,
    /// What clients sent and was not settled yet, of a quarter of `memory_max`.
    memory_input_bytes,
    /// What waits to be sent to clients, of a quarter of `memory_max`.
    memory_output_bytes,
    /// What sessions keep as long as they last, of a quarter of `memory_max`.
    memory_sessions_bytes,
    /// What subscriptions take, estimated, of a quarter of `memory_max`.
    memory_subscriptions_bytes,
    /// Persistent sessions that exist now, connected or not.
    sessions_kept,
    /// Persistent sessions that ended because their clients stayed away.
    sessions_expired,
    /// Connections refused because there are `sessions_max` persistent sessions.
    refused_sessions_max,
    /// Connections refused because their user has `sessions_per_user_max` persistent
    /// sessions.
    refused_sessions_per_user_max,
    /// Subscriptions of persistent sessions.
    subscriptions_kept,
    /// Messages in the queues of persistent sessions, those in flight included.
    queued_messages,
    /// Bytes in the queues of persistent sessions.
    queued_bytes,
    /// Messages a persistent session did not get because its queue was full.
    dropped_kept_queue_full,
    /// Messages of the gateway itself, and wills, that persistent sessions, or who subscribes later,
    /// did not get because the disk of `broker.db` was full.
    dropped_kept_disk_full,
    /// Times a publish was refused or held because a queue, the store of retained
    /// messages, or the disk of `broker.db` was full.
    refused_queue_full,
    /// Times that `broker.db` had no more room, and connections that were refused or
    /// ended because of it.
    keep_full,
    /// Queued or retained messages that were damaged on disk, and are gone.
    kept_damaged,
    /// Times a damaged `broker.db` was set aside.
    keep_set_aside,
    /// Retained messages held now.
    retained,
    /// Bytes of the retained messages held now.
    retained_bytes,
    /// Topics whose retained message is in memory only: a will that came while
    /// `broker.db` had no room, and waits for it.
    retained_owed,
    /// Times a retained message found the store of them full: refused or held at QoS 1 and
    /// 2, not retained at QoS 0, or where it is a will or the gateway's own.
    retained_refused,
}

/// A number that only this module can read.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: usize) {
        if n > 0 {
            self.0.fetch_add(n as u64, Relaxed);
        }
    }

    pub(crate) fn sub(&self, n: usize) {
        if n > 0 {
            self.0.fetch_sub(n as u64, Relaxed);
        }
    }

    pub(crate) fn set(&self, n: usize) {
        self.0.store(n as u64, Relaxed);
    }

    /// Is at least `n` from now on.
    pub(crate) fn raise(&self, n: u64) {
        self.0.fetch_max(n, Relaxed);
    }

    pub(crate) fn set_u64(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
