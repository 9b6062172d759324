use std::io::Write as _;

use proptest::prelude::*;

use super::*;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    to.write_all(bytes).unwrap();
    to.finish().unwrap()
}

fn lz4(bytes: &[u8]) -> Vec<u8> {
    // As the tool of that name does it.
    let info = lz4_flex::frame::FrameInfo::new()
        .block_size(lz4_flex::frame::BlockSize::Max4MB)
        .content_checksum(true);
    let mut to = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
    to.write_all(bytes).unwrap();
    to.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut to = Vec::with_capacity(zstd_safe::compress_bound(bytes.len()));
    let mut context = zstd_safe::CCtx::create();
    let checksum = zstd_safe::CParameter::ChecksumFlag(true);
    context.set_parameter(checksum).unwrap();
    context.compress2(&mut to, bytes).unwrap();
    to
}

type Compress = fn(&[u8]) -> Vec<u8>;

const ALL: [Compress; 3] = [gzip, lz4, zstd];

#[test]
fn what_was_compressed_comes_back() {
    let payload = b"{\"temperature\":21.5}".repeat(50);
    for compress in ALL {
        let compressed = compress(&payload);
        assert!(compressed.len() < payload.len());
        assert_eq!(
            inflate(
                Compression::Auto,
                &compressed,
                Lenient::STRICT,
                &Known::default()
            )
            .unwrap(),
            payload
        );
        let untouched = inflate(
            Compression::None,
            &compressed,
            Lenient::STRICT,
            &Known::default(),
        )
        .unwrap();
        assert_eq!(untouched, compressed);
    }
    assert_eq!(
        inflate(Compression::Auto, b"{}", Lenient::STRICT, &Known::default()).unwrap(),
        &b"{}"[..]
    );
}

#[test]
fn bombs_are_stopped_at_the_bound() {
    let most = vec![0; INFLATED_BYTES_MAX];
    let bomb = vec![0; INFLATED_BYTES_MAX + 1];
    for compress in ALL {
        let compressed = compress(&most);
        let fits = inflate(
            Compression::Auto,
            &compressed,
            Lenient::STRICT,
            &Known::default(),
        );
        assert_eq!(fits.unwrap().len(), INFLATED_BYTES_MAX);
        let compressed = compress(&bomb);
        assert!(compressed.len() < 20_000);
        let class = inflate(
            Compression::Auto,
            &compressed,
            Lenient::STRICT,
            &Known::default(),
        )
        .unwrap_err()
        .class;
        assert_eq!(class, Class::Limit);
    }
}

/// A frame of zstd by hand: what stands after the magic number.
fn by_hand(rest: &[&[u8]]) -> Vec<u8> {
    [ZSTD, &rest.concat()].concat()
}

/// The header of a zstd block.
fn block(last: bool, kind: u32, size: u32) -> [u8; 3] {
    let [a, b, c, _] = (u32::from(last) | kind << 1 | size << 3).to_le_bytes();
    [a, b, c]
}

const RAW: u32 = 0;
const RLE: u32 = 1;
const COMPRESSED: u32 = 2;

#[test]
fn a_zstd_frame_by_hand_is_read() {
    // No content size, a window of 1 KiB.
    let frame = by_hand(&[b"\x00\x00", &block(true, RAW, 2), b"{}"]);
    assert_eq!(
        inflate(
            Compression::Auto,
            &frame,
            Lenient::STRICT,
            &Known::default()
        )
        .unwrap(),
        &b"{}"[..]
    );
}

#[test]
fn a_zstd_frame_without_a_size_stops_at_the_bound() {
    let fill = 128 * 1024;
    let header = b"\x00\x58";
    let full = [&block(false, RLE, fill)[..], b"7"].concat().repeat(7);
    let most = by_hand(&[header, &full, &block(true, RLE, fill), b"7"]);
    assert_eq!(
        inflate(Compression::Auto, &most, Lenient::STRICT, &Known::default())
            .unwrap()
            .len(),
        INFLATED_BYTES_MAX
    );
    let last = block(false, RLE, fill);
    let bomb = by_hand(&[header, &full, &last, b"7", &block(true, RLE, 1), b"7"]);
    let class = inflate(Compression::Auto, &bomb, Lenient::STRICT, &Known::default())
        .unwrap_err()
        .class;
    assert_eq!(class, Class::Limit);
}

/// Sequences of one code each, which some decoders regenerate before they look at how
/// much that is: these two kilobytes are 131 MB to them.
#[test]
fn a_zstd_block_regenerates_no_more_than_there_may_be() {
    let sequences = 1_000u16;
    let [high, low] = (sequences + 0x8000).to_be_bytes();
    // One raw literal; literal length 0, offset code 2, match length code 52, and for
    // each sequence 18 bits: 4 back, and the longest match. Then the mark of the end.
    let tables = [1 << 3, b'7', high, low, 0b0101_0100, 0, 2, 52];
    let mut bits = vec![0xff; usize::from(sequences) * 18 / 8];
    bits.push(1);
    let content = [&tables[..], &bits].concat();
    let size = u32::try_from(content.len()).unwrap();
    let before = [&block(false, RAW, 16)[..], &[b'7'; 16]].concat();
    let header = block(true, COMPRESSED, size);
    let frame = by_hand(&[b"\x00\x58", &before, &header, &content]);
    assert!(frame.len() < 3_000);
    let reject = inflate(
        Compression::Auto,
        &frame,
        Lenient::STRICT,
        &Known::default(),
    )
    .unwrap_err();
    assert_eq!(reject.class, Class::Limit);
    // One of them alone fits, and is read.
    let tables = [1 << 3, b'7', 1, 0b0101_0100, 0, 2, 52];
    let content = [&tables[..], &[0xff, 0xff, 0b111]].concat();
    let size = u32::try_from(content.len()).unwrap();
    let header = block(true, COMPRESSED, size);
    let frame = by_hand(&[b"\x00\x58", &before, &header, &content]);
    let read = inflate(
        Compression::Auto,
        &frame,
        Lenient::STRICT,
        &Known::default(),
    );
    assert_eq!(read.map(|read| read.len()), Ok(16 + 131_074 + 1));
}

#[test]
fn a_window_that_zstd_declares_is_not_reserved() {
    // The largest window that there is, 3.75 TiB, and one of 2 GiB.
    for (window, fine) in [(0xff, false), (21 << 3, true)] {
        let frame = by_hand(&[&[0, window], &block(true, RAW, 2), b"{}"]);
        match inflate(
            Compression::Auto,
            &frame,
            Lenient::STRICT,
            &Known::default(),
        ) {
            Ok(Cow::Owned(read)) if fine => assert!(read.capacity() < 1_000),
            Err(reject) if !fine => assert_eq!(reject.class, Class::Syntax),
            other => panic!("{window}: {other:?}"),
        }
    }
    // A content of 2^63 bytes, and one of one byte that is more.
    let huge = [0xe0, 0, 0, 0, 0, 0, 0, 0, 0x80];
    let frame = by_hand(&[&huge, &block(true, RAW, 2), b"{}"]);
    let class = inflate(
        Compression::Auto,
        &frame,
        Lenient::STRICT,
        &Known::default(),
    )
    .unwrap_err()
    .class;
    assert_eq!(class, Class::Limit);
    let frame = by_hand(&[b"\x20\x01", &block(true, RAW, 2), b"{}"]);
    let class = inflate(
        Compression::Auto,
        &frame,
        Lenient::STRICT,
        &Known::default(),
    )
    .unwrap_err()
    .class;
    assert_eq!(class, Class::Syntax);
}

#[test]
fn zstd_with_a_dictionary_is_said_to_be_that() {
    let frame = by_hand(&[b"\x01\x00\x2a", &block(true, RAW, 2), b"{}"]);
    let reject = inflate(
        Compression::Auto,
        &frame,
        Lenient::STRICT,
        &Known::default(),
    )
    .unwrap_err();
    assert_eq!(reject.class, Class::Unsupported);
    assert!(reject.reason.contains("dictionary 42"), "{reject}");
}

#[test]
fn a_bomb_with_a_dictionary_is_stopped_at_the_bound_too() {
    let dictionary = crate::dictionary::tests::dictionary();
    let packer = crate::dictionary::Packer::new(&dictionary).unwrap();
    let known = Known::new(&[dictionary]).unwrap();
    let read = |payload: &[u8]| {
        let frame = packer.pack(payload).unwrap();
        let read = inflate(Compression::Auto, &frame, Lenient::STRICT, &known);
        read.map(|inflated| inflated.len())
    };
    let most = vec![b' '; INFLATED_BYTES_MAX + 1];
    assert_eq!(read(&most[1..]), Ok(INFLATED_BYTES_MAX));
    assert_eq!(read(&most).unwrap_err().class, Class::Limit);
}

#[test]
fn several_frames_are_not_one_payload() {
    for compress in ALL {
        let two = [compress(b"1"), compress(b"2")].concat();
        let class = inflate(Compression::Auto, &two, Lenient::STRICT, &Known::default())
            .unwrap_err()
            .class;
        assert_eq!(class, Class::Syntax);
    }
    // A frame to be skipped behind it.
    let followed = [&zstd(b"1")[..], b"\x50\x2a\x4d\x18\0\0\0\0"].concat();
    let class = inflate(
        Compression::Auto,
        &followed,
        Lenient::STRICT,
        &Known::default(),
    )
    .unwrap_err()
    .class;
    assert_eq!(class, Class::Syntax);
}

#[test]
fn what_is_cut_changed_or_followed_is_refused() {
    let payload = b"{\"temperature\":21.5}".repeat(20);
    for compress in ALL {
        let compressed = compress(&payload);
        let cut = &compressed[..compressed.len() - 1];
        let followed = [&compressed[..], b"x"].concat();
        let mut changed = compressed.clone();
        // In what is compared with the content, which all of them have at their end.
        changed[compressed.len() - 3] ^= 0x55;
        for bytes in [cut, &followed, &changed] {
            let class = inflate(Compression::Auto, bytes, Lenient::STRICT, &Known::default())
                .unwrap_err()
                .class;
            assert_eq!(class, Class::Syntax);
        }
    }
    for compression in [Compression::Gzip, Compression::Zstd, Compression::Lz4] {
        assert!(inflate(compression, b"{}", Lenient::STRICT, &Known::default()).is_err());
    }
}

proptest! {
    #[test]
    fn any_bytes_inflate_within_the_bound_or_give_a_reason(
        which in 0usize..3,
        rest in proptest::collection::vec(any::<u8>(), 0..200),
        at in any::<prop::sample::Index>(),
        byte: u8,
    ) {
        let mut real = ALL[which](&rest);
        let at = at.index(real.len());
        real[at] = byte;
        for payload in [[[GZIP, LZ4, ZSTD][which], &rest].concat(), real] {
            match inflate(Compression::Auto, &payload, Lenient::STRICT, &Known::default()) {
                Ok(inflated) => prop_assert!(inflated.len() <= INFLATED_BYTES_MAX),
                Err(reject) => prop_assert!(reject.reason.len() < 400),
            }
        }
    }
}

#[test]
fn blocks_of_lz4_are_as_large_as_they_say_up_to_the_bound() {
    use lz4_flex::frame::BlockSize::{Max1MB, Max4MB, Max64KB};
    let payload: Vec<u8> = (0..40_000u32).flat_map(u32::to_le_bytes).collect();
    for size in [Max64KB, Max1MB, Max4MB] {
        for checksums in [false, true] {
            let info = lz4_flex::frame::FrameInfo::new()
                .block_size(size)
                .block_checksums(checksums)
                .content_size(Some(payload.len() as u64));
            let mut to = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
            to.write_all(&payload).unwrap();
            let frame = to.finish().unwrap();
            assert_eq!(
                inflate(
                    Compression::Auto,
                    &frame,
                    Lenient::STRICT,
                    &Known::default()
                )
                .unwrap(),
                payload
            );
            let mut changed = frame;
            // The content's size, which the header's checksum is of.
            changed[6] ^= 1;
            let class = inflate(
                Compression::Auto,
                &changed,
                Lenient::STRICT,
                &Known::default(),
            )
            .unwrap_err()
            .class;
            assert_eq!(class, Class::Syntax);
        }
    }
}
