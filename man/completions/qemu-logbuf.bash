# bash completion of qemu-logbuf: its own --logbuf-* words; every other word is
# left to QEMU's completion where there is one, else to bash's of file names.

_qemu_logbuf() {
    local cur=${COMP_WORDS[COMP_CWORD]} name='' value='' whole=''
    COMPREPLY=()
    # bash splits at =, where COMP_WORDBREAKS has it.
    if [[ $cur == = ]]; then
        name=${COMP_WORDS[COMP_CWORD-1]}
    elif ((COMP_CWORD > 1)) && [[ ${COMP_WORDS[COMP_CWORD-1]} == = ]]; then
        name=${COMP_WORDS[COMP_CWORD-2]} value=$cur
    elif [[ $cur == --logbuf-*=* ]]; then
        name=${cur%%=*} value=${cur#*=} whole=$name=
    fi
    case $name in
    --logbuf-color) COMPREPLY=($(compgen -P "$whole" -W 'auto always never' -- "$value")) ;;
    --logbuf-format) COMPREPLY=($(compgen -P "$whole" -W 'dmesg json raw' -- "$value")) ;;
    --logbuf-show) COMPREPLY=($(compgen -P "$whole" -W 'new all unseen' -- "$value")) ;;
    --logbuf-follow) COMPREPLY=($(compgen -P "$whole" -W 'console all off' -- "$value")) ;;
    --logbuf-where) COMPREPLY=($(compgen -P "$whole" -W 'on off' -- "$value")) ;;
    --logbuf-on) COMPREPLY=($(compgen -P "$whole" -W 'stall panic reset shutdown exit' -- "$value")) ;;
    --logbuf-stop-on) COMPREPLY=($(compgen -P "$whole" -W 'stall panic reset' -- "$value")) ;;
    --logbuf-*)
        local IFS=$'\n'
        COMPREPLY=($(compgen -P "$whole" -f -- "$value"))
        ;;
    *)
        # QEMU's function first: it sets COMPREPLY anew.
        if [[ $cur != --l* ]] && declare -F _qemu >/dev/null; then
            _qemu "$@"
        fi
        if [[ $cur == -* ]]; then
            COMPREPLY+=($(compgen -W '--logbuf-qemu= --logbuf-vmlinux= --logbuf-key= --logbuf-color=
                --logbuf-output= --logbuf-format= --logbuf-show= --logbuf-on= --logbuf-stop-on=
                --logbuf-expect= --logbuf-follow --logbuf-where= --logbuf-same-pid --logbuf-attach=
                --logbuf-read= --logbuf-debug= --logbuf-help --logbuf-version' -- "$cur"))
        fi
        ;;
    esac
    if ((${#COMPREPLY[@]} == 1)) && [[ ${COMPREPLY[0]} == --logbuf-*= ]]; then
        compopt -o nospace 2>/dev/null
    fi
    return 0
}

complete -o bashdefault -o default -F _qemu_logbuf qemu-logbuf
# For an alias or link of QEMU's name, unless that name is completed already.
complete -p qemu-system-ppc64 >/dev/null 2>&1 ||
    complete -o bashdefault -o default -F _qemu_logbuf qemu-system-ppc64
