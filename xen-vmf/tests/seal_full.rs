//! `seal` from end to end.

mod model;

use xen_vmf::policy::Seal;

#[test]
fn nor_is_code_that_could_undo_it() {
    model::locked::lock_and_check(true, Seal::Full);
}
