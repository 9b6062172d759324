//! The same damage to journals whose values are sealed: damage is told by checksums of what
//! lies there, and what is whole is salvaged as it lies there.

use super::*;

#[test]
fn a_destroyed_page_costs_its_records_only_and_each_is_counted() {
    sealed_too(super::a_destroyed_page_costs_its_records_only_and_each_is_counted);
}

#[test]
fn a_salvage_interrupted_at_any_moment_is_begun_again_or_ended() {
    sealed_too(super::a_salvage_interrupted_at_any_moment_is_begun_again_or_ended);
}

#[test]
fn a_cut_file_is_salvaged_as_far_as_it_goes() {
    sealed_too(super::a_cut_file_is_salvaged_as_far_as_it_goes);
}

#[test]
fn bytes_may_be_flipped_anywhere_and_the_gateway_starts() {
    sealed_too(super::bytes_may_be_flipped_anywhere_and_the_gateway_starts);
}

#[test]
fn without_its_first_page_everything_is_found_on_the_others() {
    sealed_too(super::without_its_first_page_everything_is_found_on_the_others);
}

#[test]
fn what_waits_is_counted_once_by_a_salvage() {
    sealed_too(super::what_waits_is_counted_once_by_a_salvage);
}

#[test]
fn rows_of_the_lists_with_columns_of_another_type_stop_nobody() {
    sealed_too(super::rows_of_the_lists_with_columns_of_another_type_stop_nobody);
}

#[test]
fn every_page_may_be_destroyed_and_the_gateway_starts() {
    sealed_too(super::every_page_may_be_destroyed_and_the_gateway_starts);
}

#[test]
fn a_flipped_byte_in_a_payload_is_passed_counted_and_kept_as_found() {
    sealed_too(super::a_flipped_byte_in_a_payload_is_passed_counted_and_kept_as_found);
}

#[test]
fn a_record_in_flight_whose_row_is_damaged_counts_as_delivered() {
    sealed_too(super::a_record_in_flight_whose_row_is_damaged_counts_as_delivered);
}

#[test]
fn a_page_destroyed_under_a_running_gateway_is_survived_without_a_restart() {
    sealed_too(super::a_page_destroyed_under_a_running_gateway_is_survived_without_a_restart);
}

#[test]
fn a_page_of_keys_destroyed_after_the_check_is_survived() {
    sealed_too(super::a_page_of_keys_destroyed_after_the_check_is_survived);
}
