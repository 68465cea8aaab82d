# fish completion of qemu-logbuf: its own --logbuf-* words; every other word is
# completed as QEMU's.
complete -c qemu-logbuf -w qemu-system-ppc64
complete -c qemu-logbuf -l logbuf-qemu -r -d 'the real QEMU'
complete -c qemu-logbuf -l logbuf-vmlinux -r -d 'the kernel\'s symbols'
complete -c qemu-logbuf -l logbuf-key -x -d 'the key that asks'
complete -c qemu-logbuf -l logbuf-color -x -a 'auto always never' -d colours
complete -c qemu-logbuf -l logbuf-output -r -d 'append reports to a file'
complete -c qemu-logbuf -l logbuf-format -x -a 'dmesg json raw' -d 'how reports are written'
complete -c qemu-logbuf -l logbuf-show -x -a 'new all unseen' -d 'which records are shown'
complete -c qemu-logbuf -l logbuf-on -x -a 'stall panic reset shutdown exit' -d 'report by itself on events'
complete -c qemu-logbuf -l logbuf-stop-on -x -a 'stall panic reset' -d 'report and end QEMU on events'
complete -c qemu-logbuf -l logbuf-expect -x -d 'end QEMU once the log says this'
complete -c qemu-logbuf -l logbuf-follow -x -a 'console all off' -d 'show records as they are printed'
complete -c qemu-logbuf -l logbuf-where -x -a 'on off' -d 'where each CPU is'
complete -c qemu-logbuf -l logbuf-same-pid -d 'let QEMU have the process id'
complete -c qemu-logbuf -l logbuf-attach -r -d 'report on a QEMU that runs already'
complete -c qemu-logbuf -l logbuf-read -r -d 'report on a file of guest memory'
complete -c qemu-logbuf -l logbuf-debug -r -d 'append what qemu-logbuf does to a file'
complete -c qemu-logbuf -l logbuf-help -d 'show the help'
complete -c qemu-logbuf -l logbuf-version -d 'show the version of qemu-logbuf'
