use proptest::prelude::*;

use super::*;

fn frame(opcode: u8, is_final: bool, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![opcode | u8::from(is_final) << 7];
    match payload.len() {
        len @ 0..126 => bytes.push(0x80 | u8::try_from(len).unwrap()),
        len @ 126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(len).unwrap().to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b));
    bytes
}

/// Feeds `bytes` in pieces of `step`, reading into buffers of `room`.
fn read_all(frames: &mut Frames, bytes: &[u8], step: usize, room: usize) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut pieces = bytes.chunks(step);
    loop {
        let mut input = BytesMut::with_capacity(room);
        let most = input.capacity();
        let count = frames.try_read(&mut input, |into| match pieces.next() {
            Some(piece) => {
                into.extend_from_slice(piece);
                Ok(piece.len())
            }
            None => Err(WouldBlock.into()),
        });
        match count {
            Ok(0) => return Ok(all),
            Ok(count) => {
                assert!(count == input.len() && count <= most);
                all.extend_from_slice(&input);
            }
            Err(error) if error.kind() == WouldBlock => return Ok(all),
            Err(error) => return Err(error),
        }
    }
}

fn written(frames: &mut Frames) -> Vec<u8> {
    let mut all = Vec::new();
    let write = |bytes: &[u8]| {
        all.extend_from_slice(bytes);
        Ok(bytes.len())
    };
    frames.flush(write).unwrap();
    all
}

proptest! {
    #[test]
    fn payloads_come_out_as_they_went_in_however_they_are_cut(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..6),
        mask: [u8; 4],
        step in 1_usize..64,
        room in 1_usize..200,
        pings in any::<u8>(),
    ) {
        let mut bytes = Vec::new();
        for (n, payload) in payloads.iter().enumerate() {
            let opcode = if n == 0 { 2 } else { 0 };
            bytes.extend(frame(opcode, n + 1 == payloads.len(), payload, mask));
            if pings >> n & 1 == 1 {
                // Control frames may come between the frames of a message.
                bytes.extend(frame(9, true, b"?", mask));
            }
        }
        let mut frames = Frames::default();
        let all = read_all(&mut frames, &bytes, step, room).unwrap();
        prop_assert_eq!(all, payloads.concat());
        let count = (0..payloads.len()).filter(|n| pings >> n & 1 == 1).count();
        prop_assert_eq!(written(&mut frames), b"\x8a\x01?".repeat(count));
    }

    #[test]
    fn any_bytes_are_payload_or_an_end(bytes in prop::collection::vec(any::<u8>(), 0..200), step in 1_usize..20) {
        drop(read_all(&mut Frames::default(), &bytes, step, 64));
    }
}

#[test]
fn what_is_not_mqtt_over_a_websocket_ends_it_with_the_reason() {
    let mask = [1, 2, 3, 4];
    let unmasked = vec![0x82, 1, 0x10];
    let extension = {
        let mut bytes = frame(2, true, b"x", mask);
        bytes[0] |= 0x40;
        bytes
    };
    let fragments = [frame(2, false, b"x", mask), frame(2, true, b"y", mask)].concat();
    for (bytes, code) in [
        (unmasked, PROTOCOL_ERROR),
        (extension, PROTOCOL_ERROR),
        (fragments, PROTOCOL_ERROR),
        (frame(1, true, b"text", mask), NOT_BINARY),
        (frame(0, true, b"x", mask), PROTOCOL_ERROR),
        (frame(9, true, &[0; 126], mask), PROTOCOL_ERROR),
        (frame(9, false, b"", mask), PROTOCOL_ERROR),
        (frame(3, true, b"", mask), PROTOCOL_ERROR),
    ] {
        let mut frames = Frames::default();
        assert!(
            read_all(&mut frames, &bytes, 1000, 1000).is_err(),
            "{bytes:02x?}"
        );
        let [high, low] = code.to_be_bytes();
        assert_eq!(written(&mut frames), [0x88, 2, high, low], "{bytes:02x?}");
    }
}

#[test]
fn a_close_is_answered_and_is_the_end() {
    let mut frames = Frames::default();
    let bytes = [
        frame(2, true, b"ab", [9; 4]),
        frame(8, true, &[3, 232], [9; 4]),
    ]
    .concat();
    assert_eq!(read_all(&mut frames, &bytes, 1000, 1000).unwrap(), b"ab");
    let mut input = BytesMut::with_capacity(8);
    let read = frames.try_read(&mut input, |_| panic!("nothing more is read"));
    assert_eq!(read.unwrap(), 0);
    assert_eq!(written(&mut frames), [0x88, 2, 3, 232]);
    assert!(frames.try_write(b"x", |_| Ok(1)).is_err());
}

#[test]
fn output_is_framed_and_waits_for_the_socket() {
    let mut frames = Frames::default();
    let mut taken = Vec::new();
    let mut room = 5;
    let mut write = |bytes: &[u8]| {
        let count = bytes.len().min(room);
        room -= count;
        taken.extend_from_slice(&bytes[..count]);
        if count == 0 {
            Err(WouldBlock.into())
        } else {
            Ok(count)
        }
    };
    assert_eq!(frames.try_write(b"abcdef", &mut write).unwrap(), 6);
    assert_eq!(frames.unsent(), 3);
    let full = frames.try_write(b"g", &mut write);
    assert_eq!(full.unwrap_err().kind(), WouldBlock);
    assert_eq!(taken, b"\x82\x06abc");
    assert_eq!(written(&mut frames), b"def");
}

#[test]
fn a_flood_of_pings_is_bounded() {
    let mut frames = Frames::default();
    let bytes = frame(9, true, &[7; 125], [1; 4]).repeat(1000);
    read_all(&mut frames, &bytes, 4096, 4096).unwrap();
    assert!(frames.unsent() <= ANSWERS_MAX + 127, "{}", frames.unsent());
}
