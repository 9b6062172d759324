//! Nodes of which something was missed are asked to be born again.

use super::*;

const NCMD: &str = "spBv1.0/G/NCMD/N";

fn numbered(sent: i64, seq: u64) -> Payload {
    Payload::sent(at(sent)).metric(aliased(1)).seq(seq)
}

fn asked(births: &Births) -> Vec<String> {
    let topics = births.rebirths().take();
    topics.iter().map(ToString::to_string).collect()
}

#[test]
fn a_gap_in_the_numbers_of_a_node_costs_no_data_and_asks_for_a_birth() {
    let births = Births::default();
    send(&births, NBIRTH, at(0), &birth(0, named("n", 1))).unwrap();
    let device = Payload::sent(at(0)).metric(named("p", 2)).seq(1);
    send(&births, DBIRTH, at(0), &device).unwrap();
    send(&births, NDATA, at(1), &numbered(1, 2)).unwrap();
    // A resend.
    send(&births, NDATA, at(1), &numbered(1, 2)).unwrap();
    assert_eq!(asked(&births), [""; 0]);
    assert_eq!(births.rebirths().take_gaps(), 0);
    send(&births, NDATA, at(2), &numbered(2, 4)).unwrap();
    assert_eq!(asked(&births), [NCMD]);
    assert_eq!(births.rebirths().take_gaps(), 1);
    // It is asked a moment ago; what follows is in order again.
    send(&births, NDATA, at(3), &numbered(3, 5)).unwrap();
    send(&births, NDATA, at(4), &numbered(4, 9)).unwrap();
    assert_eq!(asked(&births), [""; 0]);
    assert_eq!(births.rebirths().take_gaps(), 1);
    send(&births, NBIRTH, at(5), &birth(5, named("n", 1))).unwrap();
    send(&births, NDATA, at(6), &numbered(6, 1)).unwrap();
    assert_eq!(births.rebirths().take_gaps(), 0);
}

#[test]
fn after_a_restart_a_node_is_asked_for_what_its_aliases_mean() {
    let births = Births::default();
    assert_eq!(name(&births, NDATA, 1, &numbered(1, 7)), Err(Class::State));
    assert_eq!(asked(&births), [NCMD]);
    send(&births, NBIRTH, at(2), &birth(2, named("n", 1))).unwrap();
    assert_eq!(name(&births, NDATA, 3, &numbered(3, 1)), Ok("n".into()));
    // A device whose birth was not seen.
    let births = Births::default();
    send(&births, NBIRTH, at(2), &birth(2, named("n", 1))).unwrap();
    assert_eq!(name(&births, DDATA, 3, &numbered(3, 1)), Err(Class::State));
    assert_eq!(asked(&births), [NCMD]);
}

#[test]
fn who_cannot_hear_it_or_need_not_is_not_asked() {
    let births = Births::default();
    // At another broker, out of quarantine, and behind something else's prefix.
    for births in [births.silent(), births.only_read()] {
        send(&births, NDATA, at(1), &numbered(1, 7)).unwrap_err();
    }
    let elsewhere = format!("plant/{NDATA}");
    send(&births, &elsewhere, at(1), &numbered(1, 7)).unwrap_err();
    assert_eq!(asked(&births), [""; 0]);
    let off = Mapping {
        rebirth: false,
        ..sparkplug()
    };
    send_by(&off, &births, NDATA, at(1), &numbered(1, 7)).unwrap_err();
    assert_eq!(asked(&births), [""; 0]);
    send(&births, NDATA, at(1), &numbered(1, 7)).unwrap_err();
    assert_eq!(asked(&births), [NCMD]);
}
