# fish completion for rrd
# Made by `python -m rrd_cli.completions` from the command line itself: do not edit.

function __rrd_at
    # True when the words before the cursor, options left out, are `rrd` and these verbs; with --more, and then any.
    set -l wanted $argv
    set -l more no
    if test "$wanted[1]" = --more
        set more yes
        set -e wanted[1]
    end
    set -l said
    for word in (commandline -opc)[2..-1]
        string match -q -- '-*' $word; or set -a said $word
    end
    set -l count (count $wanted)
    test (count $said) -ge $count; or return 1
    if test $count -gt 0
        test "$said[1..$count]" = "$wanted"; or return 1
    end
    test $more = yes; or test (count $said) -eq $count
end
complete -c rrd -f
complete -c rrd -n '__rrd_at' -a run -d 'Run a program that uses Rerun, unchanged, with these outputs'
complete -c rrd -n '__rrd_at' -a save -d 'Write recordings to a file: all since they began, and on until they end'
complete -c rrd -n '__rrd_at' -a spawn -d 'Show recordings in a viewer: everything since they began, then live'
complete -c rrd -n '__rrd_at' -a connect -d 'Stream recordings to a viewer or any Rerun server: everything since they began, then live'
complete -c rrd -n '__rrd_at' -a serve -d 'Show recordings in the browser: history first, then live'
complete -c rrd -n '__rrd_at' -a detach -d 'Stop outputs'
complete -c rrd -n '__rrd_at' -a ls -d 'List recordings: those being logged, and those kept from before'
complete -c rrd -n '__rrd_at' -a status -d 'Show the daemon, what it takes in, and each output with its lag'
complete -c rrd -n '__rrd_at' -a viewers -d 'List the viewers and Rerun servers that run here, whose they are, and which are fed by the daemon'
complete -c rrd -n '__rrd_at' -a tail -d 'Write whole messages to standard output: a valid .rrd stream at any moment'
complete -c rrd -n '__rrd_at' -a info -d 'Show what is in files and recordings: versions, entities, timelines, sizes, the footer, damage'
complete -c rrd -n '__rrd_at' -a recover -d 'Make complete files of damaged ones: every whole message, then a new footer'
complete -c rrd -n '__rrd_at' -a forget -d 'Drop ended recordings from the spool'
complete -c rrd -n '__rrd_at' -a gc -d 'Apply retention now: drop the oldest ended recordings until the spool is within its limits'
complete -c rrd -n '__rrd_at' -a daemon -d 'Start, stop and look after the daemon'
complete -c rrd -n '__rrd_at' -a config -d 'Show and change the settings'
complete -c rrd -n '__rrd_at' -s V -l version -d 'Show the version and exit'
complete -c rrd -n '__rrd_at' -s h -l help -d 'Show this message and exit'
complete -c rrd -n '__rrd_at --more run' -s o -l save -x -a '(__fish_complete_path)' -d 'Write its recording to this file'
complete -c rrd -n '__rrd_at --more run' -s f -l force -d 'Replace the file if it exists'
complete -c rrd -n '__rrd_at --more run' -l spawn -d 'Show it in a viewer: one that runs, or a new one'
complete -c rrd -n '__rrd_at --more run' -l headless -d 'With --spawn: a viewer without a window'
complete -c rrd -n '__rrd_at --more run' -l serve -d 'Serve it to browsers, and open one'
complete -c rrd -n '__rrd_at --more run' -l no-open -d 'With --serve: open no browser'
complete -c rrd -n '__rrd_at --more run' -l connect -x -d 'Send it to a viewer or server at this URL'
complete -c rrd -n '__rrd_at --more run' -l stdout -d 'The program writes its stream to standard output: take it from there'
complete -c rrd -n '__rrd_at --more run' -l no-port -d 'Do not answer port 9876, where rr.spawn and rr.connect_grpc go'
complete -c rrd -n '__rrd_at --more run' -s q -l quiet -d 'Say nothing unless something is wrong'
complete -c rrd -n '__rrd_at --more run' -s h -l help -d 'Show this message and exit'
complete -c rrd -n '__rrd_at --more save' -s f -l force -d 'Replace OUT if it exists'
complete -c rrd -n '__rrd_at --more save' -l copy -d 'An independent file, never a hard link to the daemon\'s log'
complete -c rrd -n '__rrd_at --more save' -s w -l wait -d 'Return when the file is complete'
complete -c rrd -n '__rrd_at --more save' -l json -d 'Print one object: sink, chose, complete, warnings'
complete -c rrd -n '__rrd_at --more save' -s h -l help -d 'Show this message and exit'
complete -c rrd -n '__rrd_at --more save' -F
complete -c rrd -n '__rrd_at --more save' -a '(rrd _complete sources 2>/dev/null)'
complete -c rrd -n '__rrd_at --more spawn' -l new -d 'Start a viewer even if one is running'
complete -c rrd -n '__rrd_at --more spawn' -s p -l port -x -d 'The viewer\'s port'
complete -c rrd -n '__rrd_at --more spawn' -l executable -x -a '(__fish_complete_path)' -d 'The rerun executable to start'
complete -c rrd -n '__rrd_at --more spawn' -l memory-limit -x -d 'The viewer\'s, for example 4GB or 50%'
complete -c rrd -n '__rrd_at --more spawn' -l server-memory-limit -x -d 'Its server\'s, for example 1GB'
complete -c rrd -n '__rrd_at --more spawn' -l hide-welcome-screen -d 'Without Rerun\'s welcome screen'
complete -c rrd -n '__rrd_at --more spawn' -l headless -d 'A viewer without a window (0.36 and newer)'
complete -c rrd -n '__rrd_at --more spawn' -l from -x -d 'start: everything since the recordings began'
complete -c rrd -n '__rrd_at --more spawn' -l max-lag -x -d 'Skip ahead when the viewer is more than this behind, for example 5s'
complete -c rrd -n '__rrd_at --more spawn' -l json -d 'Print one object: sink, chose, viewer, warning'
complete -c rrd -n '__rrd_at --more spawn' -s h -l help -d 'Show this message and exit'
complete -c rrd -n '__rrd_at --more spawn' -a '(rrd _complete sources 2>/dev/null)'
complete -c rrd -n '__rrd_at --more spawn' -F
complete -c rrd -n '__rrd_at --more connect' -l from -x -d 'start: everything since the recordings began'
complete -c rrd -n '__rrd_at --more connect' -l max-lag -x -d 'Skip ahead when the viewer is more than this behind, for example 5s'
complete -c rrd -n '__rrd_at --more connect' -l force -d 'Even a viewer of a version that would lose what it is sent'
complete -c rrd -n '__rrd_at --more connect' -l json -d 'Print one object: sink, chose, waiting, viewer, warning'
complete -c rrd -n '__rrd_at --more connect' -s h -l help -d 'Show this message and exit'
complete -c rrd -n '__rrd_at --more connect' -a '(rrd _complete sources 2>/dev/null)'
complete -c rrd -n '__rrd_at --more connect' -F
complete -c rrd -n '__rrd_at --more serve' -l bind -x -d 'Address to listen on'
complete -c rrd -n '__rrd_at --more serve' -s p -l port -x -d 'Port to listen on, 0 for any'
complete -c rrd -n '__rrd_at --more serve' -l token -x -d 'What the address must have'
complete -c rrd -n '__rrd_at --more serve' -l no-token -d 'Let everyone in who reaches the port'
complete -c rrd -n '__rrd_at --more serve' -l allow-anyone -d 'Allow --no-token on an address that other machines reach'
complete -c rrd -n '__rrd_at --more serve' -l host-name -x -d 'A name by which browsers address this machine'
complete -c rrd -n '__rrd_at --more serve' -l no-open -d 'Print the address, open no browser'
complete -c rrd -n '__rrd_at --more serve' -l json -d 'Print one object: url, sink, viewer, opened, tunnel, warning'
complete -c rrd -n '__rrd_at --more serve' -s h -l help -d 'Show this message and exit'
complete -c rrd -n '__rrd_at --more serve' -a '(rrd _complete sources 2>/dev/null)'
complete -c rrd -n '__rrd_at --more serve' -F
complete -c rrd -n '__rrd_at --more detach' -l all -d 'All outputs'
complete -c rrd -n '__rrd_at --more detach' -l json -d 'Print one object: sinks, as in status'
complete -c rrd -n '__rrd_at --more detach' -s h -l help -d 'Show this message and exit'
complete -c rrd -n '__rrd_at --more detach' -a '(rrd _complete sinks 2>/dev/null)'
complete -c rrd -n '__rrd_at --more detach' -F
complete -c rrd -n '__rrd_at --more ls' -l live -d 'Only recordings that are being logged'
complete -c rrd -n '__rrd_at --more ls' -l json -d 'Print a list of objects; times are Unix seconds'
complete -c rrd -n '__rrd_at --more ls' -s h -l help -d 'Show this message and exit'
complete -c rrd -n '__rrd_at --more status' -l json -d 'Print one object: daemon, streams, sinks'
complete -c rrd -n '__rrd_at --more status' -s h -l help -d 'Show this message and exit'
complete -c rrd -n '__rrd_at --more viewers' -l json -d 'Print a list of objects, one a viewer or server'
complete -c rrd -n '__rrd_at --more viewers' -s h -l help -d 'Show this message and exit'
complete -c rrd -n '__rrd_at --more tail' -s f -l follow -d 'Go on until the writer ends'
complete -c rrd -n '__rrd_at --more tail' -s n -l lines -x -d 'Only the last N messages, after the store infos, blueprints and static data that they need'
complete -c rrd -n '__rrd_at --more tail' -s h -l help -d 'Show this message and exit'
complete -c rrd -n '__rrd_at --more tail' -a '(rrd _complete sources 2>/dev/null)'
complete -c rrd -n '__rrd_at --more tail' -F
complete -c rrd -n '__rrd_at --more info' -l check -d 'Decode every chunk; takes about twice as long'
complete -c rrd -n '__rrd_at --more info' -s a -l all -d 'All entities, all damage'
complete -c rrd -n '__rrd_at --more info' -l json -d 'Print a list of objects, one a file; times are nanoseconds'
complete -c rrd -n '__rrd_at --more info' -s h -l help -d 'Show this message and exit'
complete -c rrd -n '__rrd_at --more info' -a '(rrd _complete sources 2>/dev/null)'
complete -c rrd -n '__rrd_at --more info' -F
complete -c rrd -n '__rrd_at --more recover' -s o -l output -x -a '(__fish_complete_path)' -d 'Where to: a file, or a directory for several'
complete -c rrd -n '__rrd_at --more recover' -s f -l force -d 'Replace files that exist'
complete -c rrd -n '__rrd_at --more recover' -l json -d 'Print a list of objects, one a file'
complete -c rrd -n '__rrd_at --more recover' -s h -l help -d 'Show this message and exit'
complete -c rrd -n '__rrd_at --more recover' -F
complete -c rrd -n '__rrd_at --more forget' -l ended -d 'All that have ended'
complete -c rrd -n '__rrd_at --more forget' -l older-than -x -d 'All that ended so long ago: 30min, 12h, 7d, 2w'
complete -c rrd -n '__rrd_at --more forget' -s n -l dry-run -d 'Only show what would be freed'
complete -c rrd -n '__rrd_at --more forget' -s y -l yes -d 'Do not ask'
complete -c rrd -n '__rrd_at --more forget' -l json -d 'Print one object: recordings (names), bytes, streams'
complete -c rrd -n '__rrd_at --more forget' -s h -l help -d 'Show this message and exit'
complete -c rrd -n '__rrd_at --more forget' -a '(rrd _complete recordings 2>/dev/null)'
complete -c rrd -n '__rrd_at --more gc' -s n -l dry-run -d 'Only show what would be freed'
complete -c rrd -n '__rrd_at --more gc' -l json -d 'Print one object: recordings (names), bytes, streams'
complete -c rrd -n '__rrd_at --more gc' -s h -l help -d 'Show this message and exit'
complete -c rrd -n '__rrd_at daemon' -a start -d 'Start the daemon, if it is not running'
complete -c rrd -n '__rrd_at daemon' -a stop -d 'Stop the daemon, after all files are complete'
complete -c rrd -n '__rrd_at daemon' -a restart -d 'Restart the daemon, for instance after an upgrade'
complete -c rrd -n '__rrd_at daemon' -a status -d 'Tell whether the daemon is running, without starting it'
complete -c rrd -n '__rrd_at daemon' -a logs -d 'Show what the daemon wrote to its log, or, as a service, to the journal'
complete -c rrd -n '__rrd_at daemon' -a reload -d 'Have the daemon read its settings again, without dropping a stream'
complete -c rrd -n '__rrd_at daemon' -a install -d 'Have systemd start the daemon on its first use, watch over it, and keep its log in the journal'
complete -c rrd -n '__rrd_at daemon' -a uninstall -d 'Stop the service and take its unit files away'
complete -c rrd -n '__rrd_at daemon' -s h -l help -d 'Show this message and exit'
complete -c rrd -n '__rrd_at --more daemon start' -s h -l help -d 'Show this message and exit'
complete -c rrd -n '__rrd_at --more daemon stop' -l force -d 'Even if programs are logging: what they log from then on waits or is lost'
complete -c rrd -n '__rrd_at --more daemon stop' -s h -l help -d 'Show this message and exit'
complete -c rrd -n '__rrd_at --more daemon restart' -s h -l help -d 'Show this message and exit'
complete -c rrd -n '__rrd_at --more daemon status' -s h -l help -d 'Show this message and exit'
complete -c rrd -n '__rrd_at --more daemon logs' -s f -l follow -d 'Go on until Ctrl-C'
complete -c rrd -n '__rrd_at --more daemon logs' -s n -l lines -x -d 'How many of the last lines'
complete -c rrd -n '__rrd_at --more daemon logs' -s h -l help -d 'Show this message and exit'
complete -c rrd -n '__rrd_at --more daemon reload' -s h -l help -d 'Show this message and exit'
complete -c rrd -n '__rrd_at --more daemon install' -l print -d 'Only print the two unit files, for packagers and the curious'
complete -c rrd -n '__rrd_at --more daemon install' -s h -l help -d 'Show this message and exit'
complete -c rrd -n '__rrd_at --more daemon uninstall' -l force -d 'Even if programs are logging'
complete -c rrd -n '__rrd_at --more daemon uninstall' -s h -l help -d 'Show this message and exit'
complete -c rrd -n '__rrd_at config' -a show -d 'Show every setting: its value, where that comes from, and what it means'
complete -c rrd -n '__rrd_at config' -a edit -d 'Edit the settings\' file with $VISUAL or $EDITOR, check it, and have a running daemon take it'
complete -c rrd -n '__rrd_at config' -a path -d 'Print the path of the settings\' file, whether it is there or not'
complete -c rrd -n '__rrd_at config' -s h -l help -d 'Show this message and exit'
complete -c rrd -n '__rrd_at --more config show' -l json -d 'Print one object: path, exists, settings'
complete -c rrd -n '__rrd_at --more config show' -s h -l help -d 'Show this message and exit'
complete -c rrd -n '__rrd_at --more config edit' -s h -l help -d 'Show this message and exit'
complete -c rrd -n '__rrd_at --more config path' -s h -l help -d 'Show this message and exit'
