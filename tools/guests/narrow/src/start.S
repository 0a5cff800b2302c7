/*
 * A zImage (Documentation/arch/arm/booting.rst of Linux): entered in SVC mode
 * with the MMU and interrupts off, r2 the device tree, which is not read.
 */
.syntax unified
.section .text.head, "ax"
.arm
.global _start
_start:
    b       1f
    .org    _start + 0x24
    .word   0x016f2818
    .word   _image_start
    .word   _image_end
1:  cps     #0x17
    ldr     sp, =_abort_stack_top
    cps     #0x13
    ldr     sp, =_stack_top
    ldr     r0, =vectors
    mcr     p15, 0, r0, c12, c0, 0
    isb
    ldr     r0, =_bss_start
    ldr     r1, =_bss_end
    mov     r2, #0
2:  cmp     r0, r1
    strlo   r2, [r0], #4
    blo     2b
    bl      rust_main
3:  b       3b
    .ltorg

/*
 * There is one instruction that may abort, and what follows it is a return: to
 * SVC mode and A32. Neither LR nor SPSR is made use of. Xen puts the address of
 * the instruction into LR, and 4 more for T32 (inject_abt32_exception), not 8; and
 * in QEMU's emulation SPSR_abt is not what Xen has written there.
 */
.balign 32
vectors:
    b       3b
    b       3b
    b       3b
    b       3b
    b       data_abort
    b       3b
    b       3b
    b       3b
data_abort:
    push    {r0, r1}
    ldr     r0, =aborts
    ldr     r1, [r0]
    add     r1, r1, #1
    str     r1, [r0]
    movw    r0, #0x1d3
    msr     spsr_cxsf, r0
    pop     {r0, r1}
    ldr     lr, =4f
    movs    pc, lr
4:  bx      lr
    .ltorg

/*
 * u32 load_post_indexed(address): T32, which Xen reads to decode it, as the CPU
 * gives no syndrome for it (ISV is 0 for a load with writeback).
 */
.thumb
.thumb_func
.global load_post_indexed
load_post_indexed:
    mov     r1, r0
    mvn     r0, #0
    .balign 4
.global narrow_load
narrow_load:
    ldr.w   r0, [r1], #4
    bx      lr
    .arm

/* u32 hypercall(a0, a1, a2, a3, number): AArch32's convention has r12. */
.balign 4
.global hypercall
hypercall:
    ldr     r12, [sp]
    .arch_extension virt
    hvc     #0xea1
    bx      lr

.section .bss.aborts, "aw", %nobits
.balign 4
.global aborts
aborts:
    .skip   4
