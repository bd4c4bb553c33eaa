# shellcheck shell=bash
# namespaces.sh - run a script again inside mount and process namespaces of its own, with a folder for
# it to work in. To be sourced, after tally.sh.
#
# When the first process in them is gone, so are all their mounts and processes, however it ended. Only then
# is the folder removed: rm must not walk into a /dev that is mounted there. A script that can't run here
# counts as one skip.

namespaces_command=(unshare --mount --pid --fork --kill-child --mount-proc --propagation private)
namespaces_child=''
namespaces_folder=''
namespaces_keep=false # leave the folder behind

namespaces_cannot() { # REASON
    tally_skip "$*"
    tally_print
    exit 0
}

namespaces_leave() {
    if [[ -n $namespaces_child ]]; then
        kill -KILL "$namespaces_child" 2>/dev/null || true # --kill-child takes the rest along
        wait "$namespaces_child" 2>/dev/null || true
        sleep 1
    fi
    if $namespaces_keep; then
        printf 'left behind: %s\n' "$namespaces_folder"
    else
        rm -rf --one-file-system "$namespaces_folder"
    fi
}

# namespaces_enter SCRIPT ARGUMENT...: run SCRIPT --inside FOLDER ARGUMENT... and exit as it does.
namespaces_enter() {
    local rc=0
    [[ $EUID -eq 0 ]] || namespaces_cannot "needs root, for namespaces and mounts"
    "${namespaces_command[@]}" true 2>/dev/null || namespaces_cannot "this machine allows no new namespaces"
    namespaces_folder=$(mktemp -d "${TMPDIR:-/var/tmp}/lm-$(basename "$1")-XXXXXX")
    trap namespaces_leave EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    "${namespaces_command[@]}" "$1" --inside "$namespaces_folder" "${@:2}" &
    namespaces_child=$!
    wait "$namespaces_child" || rc=$?
    namespaces_child=''
    exit "$rc"
}
