//! The independent verifier of the virtual memory fuse: from a dump of a machine's physical memory and its CPUs'
//! registers it computes what Xen can reach at EL2, and judges the claimed level. Shares no code with `xen-vmf`.
