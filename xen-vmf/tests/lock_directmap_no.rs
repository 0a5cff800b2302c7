//! `lock` from end to end with `directmap=no`.

mod model;

use xen_vmf::policy::Seal;

#[test]
fn nothing_forbidden_is_mapped_after_the_lock() {
    model::locked::lock_and_check(false, Seal::None);
}
