/*
 * run_event(frame, code): loads x0 to x8 and x16 from the frame, calls the
 * code, which is one instruction and RET, and stores them again. The
 * instruction may change those registers and no others; Xen keeps the rest.
 */
.section .text, "ax"
.global run_event
run_event:
    stp     x29, x30, [sp, #-0x60]!
    stp     x19, x20, [sp, #0x10]
    stp     x21, x22, [sp, #0x20]
    stp     x23, x24, [sp, #0x30]
    stp     x25, x26, [sp, #0x40]
    stp     x27, x28, [sp, #0x50]
    mov     x19, x0
    mov     x20, x1
    ldp     x0, x1, [x19, #0x00]
    ldp     x2, x3, [x19, #0x10]
    ldp     x4, x5, [x19, #0x20]
    ldp     x6, x7, [x19, #0x30]
    ldp     x8, x16, [x19, #0x40]
    blr     x20
    stp     x0, x1, [x19, #0x00]
    stp     x2, x3, [x19, #0x10]
    stp     x4, x5, [x19, #0x20]
    stp     x6, x7, [x19, #0x30]
    stp     x8, x16, [x19, #0x40]
    ldp     x27, x28, [sp, #0x50]
    ldp     x25, x26, [sp, #0x40]
    ldp     x23, x24, [sp, #0x30]
    ldp     x21, x22, [sp, #0x20]
    ldp     x19, x20, [sp, #0x10]
    ldp     x29, x30, [sp], #0x60
    ret

/* The spare vCPU, MMU off: PSCI CPU_OFF, whenever it is started. */
.global spare_vcpu
spare_vcpu:
    mov     w0, #0x0002
    movk    w0, #0x8400, lsl #16
    hvc     #0
    b       spare_vcpu

/* A page of code for each vCPU: executable here, written through the identity map. */
.balign 4096
.global code_pages
code_pages:
    .skip   4096 * 4
