//! The boot stub: seven A64 instructions and two addresses.
//!
//! QEMU rewrites a device tree that it is given (`-dtb`): one memory node, its
//! own command line. For a device tree that is ours to the last byte, CPU 0
//! starts in this stub instead, which does what a boot loader does at the end:
//! x0 = device tree, x1..x3 = 0, jump to Xen (Linux'
//! Documentation/arch/arm64/booting.rst).

/// LDR X<t>, <label>: literal load, `words` instructions ahead.
const fn ldr_literal(t: u32, words: u32) -> u32 {
    0x5800_0000 | (words << 5) | t
}

/// MOV X<t>, XZR.
const fn mov_zero(t: u32) -> u32 {
    0xaa1f_03e0 | t
}

/// BR X<n>.
const fn br(n: u32) -> u32 {
    0xd61f_0000 | (n << 5)
}

/// NOP: keeps the literals aligned to eight bytes.
const NOP: u32 = 0xd503_201f;

/// The stub's bytes.
pub fn stub(device_tree: u64, xen: u64) -> Vec<u8> {
    let code = [
        ldr_literal(0, 8),
        mov_zero(1),
        mov_zero(2),
        mov_zero(3),
        ldr_literal(4, 6),
        br(4),
        NOP,
        NOP,
    ];
    code.iter()
        .flat_map(|word| word.to_le_bytes())
        .chain(device_tree.to_le_bytes())
        .chain(xen.to_le_bytes())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_where_the_loads_look() {
        let bytes = stub(0x1122_3344_5566_7788, 0x99aa_bbcc_ddee_ff00);
        let word = |i: usize| u32::from_le_bytes(bytes[i * 4..i * 4 + 4].try_into().unwrap());
        let target = |i: usize| {
            assert_eq!(word(i) >> 24, 0x58, "LDR (literal), 64-bit");
            let at = i * 4 + ((word(i) >> 5 & 0x7ffff) as usize) * 4;
            u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
        };
        assert_eq!(target(0), 0x1122_3344_5566_7788);
        assert_eq!(target(4), 0x99aa_bbcc_ddee_ff00);
        assert_eq!(word(0) & 31, 0);
        assert_eq!(word(4) & 31, 4);
        // As GNU as encodes `mov x1, xzr` and `br x4`.
        assert_eq!(word(1), 0xaa1f_03e1);
        assert_eq!(word(5), 0xd61f_0080);
    }
}
