use proptest::prelude::*;

use super::*;

/// Payloads like those of devices.
pub(crate) fn samples(count: u32) -> Vec<Vec<u8>> {
    let sample = |n: u32| {
        let (device, hundredths) = (n % 25, n.wrapping_mul(2_654_435_761) % 10_000);
        format!(
            r#"{{"specversion":"1.0","id":"{n:032x}","source":"/hall-3/press-{device}","type":"iot.telemetry.v1","device":"press-{device}","data":{{"m":[{{"n":"temperature","v":{}.{:02},"u":"Cel"}}]}}}}"#,
            hundredths / 100,
            hundredths % 100,
        )
    };
    (0..count).map(sample).map(String::into_bytes).collect()
}

/// A dictionary for them.
pub(crate) fn dictionary() -> Dictionary {
    Dictionary::train(&samples(2_000), 8 * 1024).unwrap()
}

#[test]
fn an_event_is_much_smaller_with_it_and_comes_back() {
    let dictionary = dictionary();
    assert!(dictionary.bytes().len() <= 8 * 1024);
    let packer = Packer::new(&dictionary).unwrap();
    let known = Known::new(std::slice::from_ref(&dictionary)).unwrap();
    for payload in samples(3_000).split_off(2_900) {
        let frame = packer.pack(&payload).unwrap();
        let mut alone = Vec::with_capacity(zstd_safe::compress_bound(payload.len()));
        zstd_safe::compress(&mut alone, &payload, LEVEL).unwrap();
        assert!(
            frame.len() * 2 < alone.len(),
            "{} {}",
            frame.len(),
            alone.len()
        );
        let named = zstd_safe::get_dict_id_from_frame(&frame).map(NonZeroU32::get);
        assert_eq!(named, Some(dictionary.id()));
        let mut inflated = Vec::with_capacity(payload.len());
        let result = known.inflate(dictionary.id(), &frame, &mut inflated);
        assert_eq!(result, Some(Ok(payload.len())));
        assert_eq!(inflated, payload);
        assert_eq!(known.inflate(1, &frame, &mut inflated), None);
    }
}

#[test]
fn what_would_not_be_smaller_stays_as_it_is() {
    let packer = Packer::new(&dictionary()).unwrap();
    assert_eq!(packer.pack(b""), None);
    assert_eq!(packer.pack(&[1, 2, 3]), None);
}

#[test]
fn what_is_no_dictionary_is_refused_in_words() {
    let parse = |bytes: &[u8]| Dictionary::parse(bytes).unwrap_err();
    assert!(parse(b"").contains("not a dictionary of Zstandard"));
    assert!(parse(b"{\"any\":\"text\"}").contains("penstock dictionary train"));
    assert!(parse(&vec![0; BYTES_MAX + 1]).contains("at most 1048576 bytes"));
    let whole = dictionary();
    let mut damaged = whole.bytes()[..40].to_vec();
    damaged[8..].fill(0xff);
    assert_eq!(parse(&damaged), "is a damaged dictionary");
    let few = Dictionary::train(&samples(3), 8 * 1024).unwrap_err();
    assert!(few.starts_with("3 events are too few"), "{few}");
    let twice = Known::new(&[whole.clone(), whole.clone()]).unwrap_err();
    assert!(twice.contains(&whole.id().to_string()), "{twice}");
    let missing = Dictionary::read(Path::new("no such file")).unwrap_err();
    assert!(missing.starts_with("cannot be read: "), "{missing}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever stands in a file: it is refused, or both sides can use it.
    #[test]
    fn any_bytes_are_a_dictionary_or_none(at in any::<prop::sample::Index>(), byte: u8, n in 0_usize..50) {
        let mut bytes = dictionary().bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(dictionary) = Dictionary::parse(&bytes) {
            let payload = samples(50).swap_remove(n);
            let Some(frame) = Packer::new(&dictionary).unwrap().pack(&payload) else {
                return Ok(());
            };
            let known = Known::new(std::slice::from_ref(&dictionary)).unwrap();
            let mut inflated = Vec::with_capacity(payload.len());
            let done = known.inflate(dictionary.id(), &frame, &mut inflated);
            prop_assert_eq!(done, Some(Ok(payload.len())));
            prop_assert_eq!(inflated, payload);
        }
    }
}
