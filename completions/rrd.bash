# bash completion for rrd
# Made by `python -m rrd_cli.completions` from the command line itself: do not edit.

_rrd() {
    # Readline also breaks words at @ and :, which may stand in names: look at the line itself.
    local line="${COMP_LINE:0:COMP_POINT}" current="" previous="" verb="" word options="" kinds="" valued="" at=0
    local -a words=() found=()
    read -ra words <<< "$line"
    if [[ "$line" != *[[:space:]] && ${#words[@]} -gt 0 ]]; then
        current="${words[-1]}"
        unset 'words[-1]'
    fi
    [[ ${#words[@]} -gt 1 ]] && previous="${words[-1]}"
    for word in "${words[@]:1}"; do
        [[ "$word" == -* ]] && continue
        case "$verb" in
            "") verb="$word" ;;
            "daemon") verb="daemon $word" ;;
            "config") verb="config $word" ;;
            "completion") verb="completion $word" ;;
            *) at=$((at + 1)) ;;
        esac
    done
    case "$verb" in
        "")
            options="-V --version -h --help"
            mapfile -t found < <(compgen -W "run save spawn connect serve attach detach ls status viewers top doctor tail info recover forget gc daemon config completion" -- "$current")
            ;;
        "run")
            options="-o --save -f --force --spawn --headless --serve --no-open --connect --stdout --no-port -q --quiet -h --help"
            case $at in *) kinds="files" ;; esac
            ;;
        "save")
            options="-f --force --copy --last -w --wait --json -h --help"
            case $at in 0) kinds="files" ;; *) kinds="sources files" ;; esac
            ;;
        "spawn")
            options="--new -p --port --executable --memory-limit --server-memory-limit --hide-welcome-screen --headless --from --max-lag --newest-first --json -h --help"
            case $at in *) kinds="sources files" ;; esac
            ;;
        "connect")
            options="--from --max-lag --newest-first --force --json -h --help"
            case $at in 0) kinds="viewers" ;; *) kinds="sources files" ;; esac
            ;;
        "serve")
            options="--bind -p --port --token --no-token --allow-anyone --host-name --no-open --json -h --help"
            case $at in *) kinds="sources files" ;; esac
            ;;
        "attach")
            options="-h --help"
            case $at in 0) kinds="" ;; esac
            ;;
        "detach")
            options="--all --json -h --help"
            case $at in *) kinds="sinks files" ;; esac
            ;;
        "ls")
            options="--live --json -h --help"
            kinds=""
            ;;
        "status")
            options="--json -h --help"
            kinds=""
            ;;
        "viewers")
            options="--json -h --help"
            kinds=""
            ;;
        "top")
            options="-i --interval -h --help"
            kinds=""
            ;;
        "doctor")
            options="--json -h --help"
            kinds=""
            ;;
        "tail")
            options="-f --follow -n --lines -h --help"
            case $at in *) kinds="sources files" ;; esac
            ;;
        "info")
            options="--check -a --all --json -h --help"
            case $at in *) kinds="sources files" ;; esac
            ;;
        "recover")
            options="-o --output -f --force --json -h --help"
            case $at in *) kinds="files" ;; esac
            ;;
        "forget")
            options="--ended --older-than -n --dry-run -y --yes --json -h --help"
            case $at in *) kinds="recordings" ;; esac
            ;;
        "gc")
            options="-n --dry-run -y --yes --json -h --help"
            kinds=""
            ;;
        "daemon")
            options="-h --help"
            mapfile -t found < <(compgen -W "start stop restart status logs reload install uninstall" -- "$current")
            ;;
        "daemon start")
            options="-h --help"
            kinds=""
            ;;
        "daemon stop")
            options="--force -h --help"
            kinds=""
            ;;
        "daemon restart")
            options="-h --help"
            kinds=""
            ;;
        "daemon status")
            options="-h --help"
            kinds=""
            ;;
        "daemon logs")
            options="-f --follow -n --lines -h --help"
            kinds=""
            ;;
        "daemon reload")
            options="-h --help"
            kinds=""
            ;;
        "daemon install")
            options="--print -h --help"
            kinds=""
            ;;
        "daemon uninstall")
            options="--force -h --help"
            kinds=""
            ;;
        "config")
            options="-h --help"
            mapfile -t found < <(compgen -W "show edit path" -- "$current")
            ;;
        "config show")
            options="--json -h --help"
            kinds=""
            ;;
        "config edit")
            options="-h --help"
            kinds=""
            ;;
        "config path")
            options="-h --help"
            kinds=""
            ;;
        "completion")
            options="-h --help"
            mapfile -t found < <(compgen -W "install show man" -- "$current")
            ;;
        "completion install")
            options="-h --help"
            case $at in 0) kinds="" ;; esac
            ;;
        "completion show")
            options="-h --help"
            case $at in 0) kinds="" ;; esac
            ;;
        "completion man")
            options="-h --help"
            kinds=""
            ;;
        *) return ;;
    esac
    case "$verb $previous" in
        "run -o" | "run --save") valued=yes kinds="files" ;;
        "run --connect") valued=yes kinds="viewers" ;;
        "save --last") valued=yes kinds="" ;;
        "spawn -p" | "spawn --port") valued=yes kinds="" ;;
        "spawn --executable") valued=yes kinds="files" ;;
        "spawn --memory-limit") valued=yes kinds="" ;;
        "spawn --server-memory-limit") valued=yes kinds="" ;;
        "spawn --from") valued=yes kinds="" ;;
        "spawn --max-lag") valued=yes kinds="" ;;
        "connect --from") valued=yes kinds="" ;;
        "connect --max-lag") valued=yes kinds="" ;;
        "serve --bind") valued=yes kinds="" ;;
        "serve -p" | "serve --port") valued=yes kinds="" ;;
        "serve --token") valued=yes kinds="" ;;
        "serve --host-name") valued=yes kinds="" ;;
        "top -i" | "top --interval") valued=yes kinds="" ;;
        "tail -n" | "tail --lines") valued=yes kinds="" ;;
        "recover -o" | "recover --output") valued=yes kinds="files" ;;
        "forget --older-than") valued=yes kinds="" ;;
        "daemon logs -n" | "daemon logs --lines") valued=yes kinds="" ;;
    esac
    if [[ "$valued" == yes ]]; then
        :
    elif [[ "$current" == -* ]]; then
        mapfile -t found < <(compgen -W "$options" -- "$current")
        kinds=""
    fi
    for word in $kinds; do
        case "$word" in
            files)
                compopt -o filenames 2>/dev/null
                mapfile -t -O "${#found[@]}" found < <(compgen -f -- "$current")
                ;;
            *)
                mapfile -t -O "${#found[@]}" found < <(
                    compgen -W "$("${COMP_WORDS[0]}" _complete "$word" 2>/dev/null | cut -f 1)" -- "$current")
                ;;
        esac
    done
    # Readline replaces what follows the last character that it breaks words at; @ and $ themselves go with that.
    local broken="${current%"${current##*["$COMP_WORDBREAKS"]}"}"
    [[ "$broken" == *[@$] ]] && broken="${broken%?}"
    COMPREPLY=("${found[@]#"$broken"}")
}
complete -F _rrd rrd
