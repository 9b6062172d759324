//! Which shard the service speaks of.

/// The shard that a message of the service names.
pub(super) fn named_in(message: &str) -> Option<&str> {
    let from = message.find("shardId-")?;
    let end = |c: char| !c.is_ascii_alphanumeric() && c != '-';
    let shard = &message[from..];
    Some(&shard[..shard.find(end).unwrap_or(shard.len())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shard_is_read_out_of_the_message() {
        let message =
            "Rate exceeded for shard shardId-000000000001 in stream s under account 123456789012.";
        assert_eq!(named_in(message), Some("shardId-000000000001"));
        assert_eq!(named_in("Rate exceeded"), None);
    }
}
