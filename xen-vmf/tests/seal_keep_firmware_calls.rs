//! `seal` from end to end, but for the calls of firmware.

mod model;

use xen_vmf::policy::Seal;

#[test]
fn nor_is_code_that_could_undo_it() {
    model::locked::lock_and_check(false, Seal::KeepFirmwareCalls);
}
