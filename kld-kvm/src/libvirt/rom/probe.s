# The guest that finds out whether guests run: the last 512 bytes of a PC's firmware.
#
# From the reset vector it goes where every system goes, real mode, protected mode, paging, long mode, and uses what
# kernels use there where the processor offers it (SSE, XSETBV, AVX, POPCNT, BMI). Then it tells the pvpanic device,
# which libvirt sees. Any exception on the way ends in a triple fault.
#
# Built by:  as -o probe.o probe.s && ld -Ttext=0xfffffe00 --oformat=binary -o probe.bin probe.o

        .text
        .globl _start
_start:
        .code16
        cli
        lgdtl   %cs:(gdt_pointer - _start + 0xfe00)
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        ljmpl   $0x08, $protected

        .code32
protected:
        movw    $0x10, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    $0x8000, %esp
        # The first and the last 2 MiB below 4 GiB, each where it is. Memory is zero at power-on.
        movl    $0x2003, 0x1000
        movl    $0x3003, 0x2000
        movl    $0x4003, 0x2018
        movl    $0x00000083, 0x3000
        movl    $0xffe00083, 0x4ff8
        movl    $0x1000, %eax
        movl    %eax, %cr3
        movl    %cr4, %eax
        orl     $0x620, %eax            # PAE, OSFXSR, OSXMMEXCPT
        movl    %eax, %cr4
        movl    $0xc0000080, %ecx       # EFER
        rdmsr
        orl     $0x100, %eax            # LME
        wrmsr
        movl    %cr0, %eax
        andl    $0x9ffffffb, %eax       # no EM, caches on
        orl     $0x80000022, %eax       # PG, NE, MP
        movl    %eax, %cr0
        ljmpl   $0x18, $long

        .code64
long:
        # Calls, string instructions, atomics.
        cld
        movl    $0x10000, %edi
        movl    $0x400, %ecx
        movl    $0x5a, %eax
        rep stosq
        movl    $0x10000, %esi
        movl    $0x20000, %edi
        movl    $0x2000, %ecx
        rep movsb
        movl    $0x10000, %ebx
        movl    $1, %eax
        lock xaddq %rax, (%rbx)
        movl    $20000, %ecx
again:  call    work
        loop    again

        movdqu  (%rbx), %xmm0
        paddq   %xmm0, %xmm0
        movdqu  %xmm0, 0x100(%rbx)

        movl    $1, %eax
        cpuid
        movl    %ecx, %ebp
        btl     $23, %ebp               # POPCNT
        jnc     1f
        popcntq %rbp, %rax
1:      btl     $26, %ebp               # XSAVE
        jnc     bmi
        movq    %cr4, %rax
        orl     $0x40000, %eax          # OSXSAVE
        movq    %rax, %cr4
        xorl    %ecx, %ecx
        xorl    %edx, %edx
        movl    $3, %eax
        btl     $28, %ebp               # AVX
        jnc     1f
        movl    $7, %eax
1:      xsetbv
        btl     $28, %ebp
        jnc     bmi
        vxorps  %ymm0, %ymm0, %ymm0
        movl    $0x10000, %ebx
        vmovups %ymm0, (%rbx)
        vzeroupper

bmi:    xorl    %eax, %eax
        cpuid
        cmpl    $7, %eax
        jb      done
        movl    $7, %eax
        xorl    %ecx, %ecx
        cpuid
        btl     $8, %ebx                # BMI2
        jnc     done
        movl    $3, %ecx
        shlxq   %rcx, %rbx, %rax
        rorxl   $7, %ebx, %edx

done:   movw    $0x505, %dx             # pvpanic
        movb    $1, %al
        outb    %al, %dx
halt:   hlt
        jmp     halt

work:   pushq   %rcx
        imulq   %rcx, %rax
        popq    %rcx
        ret

        .balign 8, 0
gdt:    .quad   0
        .quad   0x00cf9b000000ffff      # 0x08: 32-bit code
        .quad   0x00cf93000000ffff      # 0x10: data
        .quad   0x00af9b000000ffff      # 0x18: 64-bit code
gdt_pointer:
        .word   gdt_pointer - gdt - 1
        .long   gdt

        .org    0x1f0
        .code16
        jmp     _start                  # the reset vector
        .org    0x200
