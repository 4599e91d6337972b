# shellcheck shell=bash
# Installing without a person: only where the medium says so, on machines of the list, onto a disk without an appliance.

# machine: vendor and product as the firmware gives them.
machine() {
  local vendor product
  vendor=$(cat "$SYS/class/dmi/id/sys_vendor" 2>/dev/null || true)
  product=$(cat "$SYS/class/dmi/id/product_name" 2>/dev/null || true)
  printf '%s|%s\n' "${vendor:-unknown}" "${product:-unknown}"
}

# listed MACHINE FILE: whether a machine is on the list (vendor|product, shell patterns, # comments).
listed() {
  local line
  while IFS= read -r line; do
    case $line in '#'* | '') continue ;; esac
    # shellcheck disable=SC2254 # the list holds patterns
    case $1 in $line) return 0 ;; esac
  done <"$2"
  return 1
}

# Stands while an installation without a person is under way, and stays when it failed. A power cut takes it along.
readonly UNATTENDED_RUN=${INSTALLER_RUN:-/run}/install-appliance.unattended

# may_go_unattended SEED MACHINES DISK…: says why not.
may_go_unattended() {
  local seed=$1 machines=$2 here
  shift 2
  [ -e "$seed/unattended" ] || return 1
  here=$(machine)
  if ! listed "$here" "$machines"; then
    say "This medium may install by itself, but not on this machine (${here/|/, }): it is not on the list of appliances."
    return 1
  fi
  if [ "$#" -ne 1 ]; then
    say "This medium may install by itself, but this machine has $# disks, and a person must choose."
    return 1
  fi
  if [ -e "$UNATTENDED_RUN" ]; then
    # Or a failing disk would be written to for ever.
    say "This medium may install by itself, but the last try failed, and a person must say that there shall be another."
    return 1
  fi
  if ! partitions "$1" >/dev/null && ! grep --quiet --line-regexp 'replace-appliance' "$seed/unattended"; then
    say "This medium may install by itself, but the disk's partition table cannot be read, and a person must say that no appliance is lost."
    return 1
  fi
  if [ -n "$(previous_appliance "$1")" ] && ! grep --quiet --line-regexp 'replace-appliance' "$seed/unattended"; then
    # Or a medium that was left in would erase the appliance at every start.
    say "This medium may install by itself, but an appliance is installed already, and a person must say that it shall go."
    return 1
  fi
}
