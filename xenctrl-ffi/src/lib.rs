//! The dom0 side of the `vmf_op` hypercall: a transport and a safe API over it.
