# shellcheck shell=bash
# Talking to the person at the console, and not waiting for ever for a device.

readonly MIB=$((1024 * 1024))

# Exit codes, as in --help.
# shellcheck disable=SC2034 # used by the files that source this one
readonly NOTHING_WRITTEN=1 MISUSE=2 DECLINED=3 DISK_UNUSABLE=4

# Seconds: for a question to a device, for moving one piece of data, for a whole file system.
# shellcheck disable=SC2034
readonly PATIENCE=30 PIECE_PATIENCE=120 LONG_PATIENCE=600

say() { printf '%s\n' "$*" >&2; }

fail() {
  local status=$1
  shift
  say ""
  say "Not installed: $*"
  exit "$status"
}

# limited SECONDS COMMAND…: a dead disk or medium must not hold the installer for ever. Status 124: it did.
limited() { timeout --foreground --kill-after=10 "$@"; }

# progress WORD DONE_BYTES TOTAL_BYTES START_SECONDS
progress() {
  local percent=100 took=$((SECONDS - $4)) left=''
  [ "$3" -eq 0 ] || percent=$(($2 * 100 / $3))
  if [ "$2" -gt 0 ] && [ "$2" -lt "$3" ] && [ "$took" -gt 2 ]; then
    left=", $((took * ($3 - $2) / $2)) s left"
  fi
  printf '\r%-8s %3d %%  %6d of %d MiB  %d s%-16s' "$1" "$percent" $(($2 / MIB)) $(($3 / MIB)) "$took" "$left" >&2
}
