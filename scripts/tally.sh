# shellcheck shell=bash
# tally.sh - counting checks, for scripts that end with `N passed, N failed, N skipped`. To be sourced.

tally_passed=0 tally_failed=0 tally_skipped=0

tally_pass() { # WHAT
    tally_passed=$((tally_passed + 1))
    printf 'passed: %s\n' "$*"
}

tally_fail() { # WHAT
    tally_failed=$((tally_failed + 1))
    printf 'FAILED: %s\n' "$*"
}

tally_skip() { # REASON
    tally_skipped=$((tally_skipped + 1))
    printf 'skipped: %s\n' "$*"
}

# tally_that WHAT COMMAND...: passed when the command succeeds.
tally_that() {
    local what=$1
    shift
    if "$@"; then tally_pass "$what"; else tally_fail "$what"; fi
}

# Add the counts of a log's last line; a log that doesn't end with counts is a failure of WHAT.
tally_log() { # LOG WHAT
    local line
    line=$(tail -n 1 "$1")
    if [[ $line =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed,\ ([0-9]+)\ skipped$ ]]; then
        tally_passed=$((tally_passed + BASH_REMATCH[1]))
        tally_failed=$((tally_failed + BASH_REMATCH[2]))
        tally_skipped=$((tally_skipped + BASH_REMATCH[3]))
    else
        tally_fail "$2 did not come to its end"
    fi
}

# The last line. False if anything failed, or if nothing was done at all.
tally_print() {
    printf '\n%d passed, %d failed, %d skipped\n' "$tally_passed" "$tally_failed" "$tally_skipped"
    ((tally_failed == 0 && tally_passed + tally_skipped > 0))
}
