# The smallest guest that tells one disk from another: a boot sector that reads the disk's second sector through the
# BIOS and writes its text (to the first zero byte) on the serial port, in brackets; then again for each byte that
# comes in there. Meanwhile it sleeps, so that many of them take little.
#
# Built by:  as -o boot.o boot.s && ld -Ttext=0x7c00 --oformat=binary -o boot.bin boot.o

        .text
        .globl _start
        .code16
_start:
        ljmp    $0, $1f
1:      xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $0x7c00, %sp
        movb    %dl, drive
        movw    $typed, 0x0c * 4        # IRQ 4 is interrupt 12
        movw    %ax, 0x0c * 4 + 2
        movw    $0x3f9, %dx             # the serial port tells of bytes
        movb    $1, %al
        outb    %al, %dx
        movw    $0x3fc, %dx
        movb    $0x0b, %al
        outb    %al, %dx
        inb     $0x21, %al              # what the BIOS hears, and the serial port
        andb    $0xef, %al
        movb    %al, heard

again:  movb    heard, %al
        outb    %al, $0x21
        sti
        movb    $0x42, %ah              # read as the packet says
        movb    drive, %dl
        movw    $packet, %si
        int     $0x13
        movw    $fault, %si
        jc      1f
        movw    $0x7e00, %si
1:      movb    $'[', %al
        call    put
2:      lodsb
        testb   %al, %al
        jz      3f
        call    put
        jmp     2b
3:      movw    $end, %si
4:      lodsb
        testb   %al, %al
        jz      5f
        call    put
        jmp     4b
5:      movb    $0xef, %al              # only the serial port is heard
        outb    %al, $0x21
        hlt
        jmp     again

typed:  pushw   %ax
        pushw   %dx
        movw    $0x3f8, %dx
        inb     %dx, %al
        movb    $0x20, %al
        outb    %al, $0x20
        popw    %dx
        popw    %ax
        iret

put:    pushw   %ax
        movw    $0x3fd, %dx
1:      inb     %dx, %al
        testb   $0x20, %al
        jz      1b
        popw    %ax
        movw    $0x3f8, %dx
        outb    %al, %dx
        ret

fault:  .asciz  "cannot read the disk"
end:    .asciz  "]\r\n"
drive:  .byte   0
heard:  .byte   0
        .balign 4
packet: .byte   16, 0
        .word   1                       # one sector
        .word   0x7e00, 0               # to here
        .quad   1                       # the second one

        .org    0x1fe
        .byte   0x55, 0xaa
