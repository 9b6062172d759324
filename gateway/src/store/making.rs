//! Room for what comes in: what everybody has leaves first, then what is held for nobody, and
//! then, if that is wanted, the oldest.

use rusqlite::Connection;

use super::{config::OnFull, quarantine, retention, room::Room, stage::Stage};

/// Chunks evicted to make room for one group, at most.
const EVICTIONS_MAX: usize = 8;

/// Whether there is room for so many bytes of what can wait.
pub(super) fn has_plenty(
    connection: &Connection,
    room: &mut Room,
    bytes: u64,
) -> rusqlite::Result<bool> {
    if !room.has_plenty(bytes) {
        room.look(connection)?;
    }
    Ok(room.has_plenty(bytes))
}

/// Whether there is room for so many bytes, after evicting if that is wanted.
pub(super) fn make_room(
    connection: &Connection,
    room: &mut Room,
    bytes: u64,
    stage: &mut Stage,
) -> rusqlite::Result<bool> {
    if room.fits(bytes) {
        return Ok(true);
    }
    room.look(connection)?;
    // No more than one chunk is removed in vain; it may be less than what comes in.
    let chunk_bytes = retention::CHUNK_BYTES.max(bytes);
    for _ in 0..EVICTIONS_MAX {
        if room.fits(bytes) {
            return Ok(true);
        }
        // What everybody has leaves first, also where somebody else would still read it.
        let settled = stage.state.settled_to();
        if retention::trimmable(stage, settled) > 0 {
            retention::trim(connection, settled, chunk_bytes, stage)?;
            room.look(connection)?;
            continue;
        }
        if retention::evict_held(connection, chunk_bytes, stage)? {
            room.look(connection)?;
            continue;
        }
        if room.on_full() == OnFull::PushBack {
            return Ok(false);
        }
        let half = stage.state.quarantine_bytes / 2;
        let evicted = retention::evict(connection, chunk_bytes, stage)?
            || quarantine::evict_to(connection, half, stage)?;
        if !evicted {
            if !room.refusing() {
                tracing::warn!(
                    dead_letters = stage.state.dead_letters,
                    "no room, and nothing is left to evict: what is kept are dead letters, \
                     retries and keys"
                );
            }
            return Ok(false);
        }
        room.look(connection)?;
    }
    Ok(room.fits(bytes))
}
