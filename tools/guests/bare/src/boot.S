/*
 * From the loader to Rust: tables, MMU and caches on, stack, empty bss.
 *
 * On entry the MMU and the data cache are off, x0 is the address of the
 * device tree, and the image is clean to the point of coherency (Linux
 * Documentation/arch/arm64/booting.rst, which Xen's loader follows).
 *
 * Virtual layout, 39 bits, TTBR0 only:
 *   identity, 1 GiB blocks   the GiB of the image and that of the device tree;
 *                            Rust adds RAM and devices
 *   0x7fc0000000, 4 KiB      the image: text RX, rodata R, the rest RW
 */
.set PAGE_TABLE,    0x3
.set PAGE,          0x3
.set BLOCK,         0x1
.set NORMAL_AF_SH,  (1 << 10) | (3 << 8)      /* attribute index 0 */
.set READ_ONLY,     (1 << 7)
.set NO_EXEC_EL0,   (1 << 54)
.set NO_EXEC,       (3 << 53)

.macro load_address reg, symbol
    adrp    \reg, \symbol
    add     \reg, \reg, #:lo12:\symbol
.endm

/* Tables at x21; x0 to x2 are lost. */
.macro mmu_on
    mov     x0, #0x04ff                 /* 0: write-back, 1: device nGnRE */
    msr     mair_el1, x0
    /* T0SZ 25, write-back, inner shareable, 4K, no TTBR1 walks. */
    ldr     x0, =(25 | (1 << 8) | (1 << 10) | (3 << 12) | (1 << 23))
    mrs     x1, id_aa64mmfr0_el1
    and     x1, x1, #0xf
    mov     x2, #5
    cmp     x1, x2
    csel    x1, x1, x2, lo
    bfi     x0, x1, #32, #3
    msr     tcr_el1, x0
    msr     ttbr0_el1, x21
    isb
    ldr     x0, =(0x30d00800 | (1 << 12) | (1 << 2) | 1)
    msr     sctlr_el1, x0
    isb
.endm

.section .text.head, "ax"
.global _start
_start:
    b       boot
    .long   0
    .quad   0                           /* text offset */
    .quad   _image_size
    .quad   0xa                         /* little endian, 4K pages, anywhere */
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0

boot:
    msr     daifset, #0xf
    mov     x19, x0
    load_address x20, _start            /* where the image really is */

    load_address x21, table_l1          /* L1, L2, L3, another L1: four pages */
    add     x22, x21, #0x1000
    add     x23, x21, #0x2000
    add     x24, x21, #0x3000
    mov     x0, x21
    add     x1, x21, #0x4000
1:  stp     xzr, xzr, [x0], #16
    cmp     x0, x1
    b.lo    1b

    /* Identity blocks for the image and the device tree. */
    ldr     x5, =(NORMAL_AF_SH | NO_EXEC_EL0 | BLOCK)
    lsr     x1, x20, #30
    lsl     x2, x1, #30
    orr     x2, x2, x5
    str     x2, [x21, x1, lsl #3]
    str     x2, [x24, x1, lsl #3]
    lsr     x1, x19, #30
    lsl     x2, x1, #30
    orr     x2, x2, x5
    str     x2, [x21, x1, lsl #3]

    /* The image at its virtual address. */
    orr     x2, x22, #PAGE_TABLE
    str     x2, [x21, #(511 * 8)]
    str     x2, [x24, #(511 * 8)]
    orr     x2, x23, #PAGE_TABLE
    str     x2, [x22]
    load_address x6, _text_end
    load_address x7, _rodata_end
    load_address x8, _image_end
    ldr     x9, =(NORMAL_AF_SH | NO_EXEC_EL0 | READ_ONLY | PAGE)
    ldr     x10, =(NORMAL_AF_SH | NO_EXEC | READ_ONLY | PAGE)
    ldr     x11, =(NORMAL_AF_SH | NO_EXEC | PAGE)
    mov     x0, x20
    mov     x3, x23
2:  mov     x4, x9
    cmp     x0, x6
    csel    x4, x4, x10, lo
    cmp     x0, x7
    csel    x4, x4, x11, lo
    orr     x4, x4, x0
    str     x4, [x3], #8
    add     x0, x0, #0x1000
    cmp     x0, x8
    b.lo    2b

    /* The stores went past the cache: drop what it may hold of the tables. */
    dmb     sy
    mov     x0, x21
    add     x1, x21, #0x4000
3:  dc      ivac, x0
    add     x0, x0, #16                 /* the smallest line there can be */
    cmp     x0, x1
    b.lo    3b
    dsb     sy
    ic      iallu
    tlbi    vmalle1
    dsb     nsh
    isb

    mmu_on
    ldr     x0, =high
    br      x0

high:
    ldr     x0, =_stack_top
    mov     sp, x0
    ldr     x0, =_bss_start
    ldr     x1, =_bss_end
4:  cmp     x0, x1
    b.hs    5f
    stp     xzr, xzr, [x0], #16
    b       4b
5:  ldr     x0, =vectors
    msr     vbar_el1, x0
    ldr     x0, =interrupt_nops_end
    msr     tpidr_el1, x0
    isb
    mov     x0, x19
    mov     x1, x20
    mov     x29, xzr
    mov     x30, xzr
    bl      rust_main
6:  wfi
    b       6b

/*
 * A further vCPU, x0 the virtual address of a Start (boot.rs). Rust makes the
 * identity map not executable, so it comes up on tables of its own.
 */
.global further_vcpu
further_vcpu:
    msr     daifset, #0xf
    mov     x19, x0
    load_address x21, table_further
    ic      iallu
    tlbi    vmalle1
    dsb     nsh
    isb
    mmu_on
    ldr     x0, =further_high
    br      x0

further_high:
    sub     x21, x21, #0x3000           /* table_l1 */
    msr     ttbr0_el1, x21
    isb
    tlbi    vmalle1
    dsb     nsh
    isb
    ldr     x0, =vectors
    msr     vbar_el1, x0
    ldr     x0, =interrupt_nops_end
    msr     tpidr_el1, x0
    isb
    ldp     x0, x1, [x19]               /* stack_top, enter */
    mov     sp, x0
    mov     x0, x19
    mov     x29, xzr
    mov     x30, xzr
    br      x1

    .ltorg

.section .tables, "aw", %nobits
.balign 4096
.global table_l1
table_l1:
    .skip   0x3000
table_further:
    .skip   0x1000

/* Exceptions. All that is taken from EL1 goes to Rust with the registers. */
.section .text, "ax"
.macro vector kind
    .balign 0x80
    sub     sp, sp, #0x110
    stp     x0, x1, [sp, #0x00]
    .if     \kind == 5                  /* IRQ: see interrupt.rs */
    mrs     x0, tpidr_el1               /* among the nops, or behind them */
    br      x0
    .rept   15
    nop
    .endr
.global interrupt_nops_end
interrupt_nops_end:
    mrs     x0, cntvct_el0
    str     x0, [sp, #0xc0]
    .endif
    mov     x0, #\kind
    b       exception
.endm

.balign 0x800
.global vectors
vectors:
    .set    kind_index, 0
    .rept   16
    vector  kind_index
    .set    kind_index, kind_index + 1
    .endr

exception:
    stp     x2, x3, [sp, #0x10]
    stp     x4, x5, [sp, #0x20]
    stp     x6, x7, [sp, #0x30]
    stp     x8, x9, [sp, #0x40]
    stp     x10, x11, [sp, #0x50]
    stp     x12, x13, [sp, #0x60]
    stp     x14, x15, [sp, #0x70]
    stp     x16, x17, [sp, #0x80]
    stp     x18, x19, [sp, #0x90]
    stp     x29, x30, [sp, #0xa0]
    mrs     x2, elr_el1
    mrs     x3, spsr_el1
    stp     x2, x3, [sp, #0xb0]
    mov     x1, sp
    bl      rust_exception              /* (kind, frame) */
    ldp     x2, x3, [sp, #0xb0]
    msr     elr_el1, x2
    msr     spsr_el1, x3
    ldp     x0, x1, [sp, #0x00]
    ldp     x2, x3, [sp, #0x10]
    ldp     x4, x5, [sp, #0x20]
    ldp     x6, x7, [sp, #0x30]
    ldp     x8, x9, [sp, #0x40]
    ldp     x10, x11, [sp, #0x50]
    ldp     x12, x13, [sp, #0x60]
    ldp     x14, x15, [sp, #0x70]
    ldp     x16, x17, [sp, #0x80]
    ldp     x18, x19, [sp, #0x90]
    ldp     x29, x30, [sp, #0xa0]
    add     sp, sp, #0x110
    eret
