# shellcheck shell=bash
# What was on the disk goes first: what boots, an appliance's identity, the partition tables, the marks of file systems.
# From the first step on nothing boots from this disk, until the very last one has written the new partition table.
#
# The old table goes after the identity, because only the table says where that is: an erasing that is cut short finds
# it again when it is repeated. Until then an appliance is still listed there, so an unattended medium asks after such a
# cut, unless it may replace appliances. That is meant: nobody can tell half an erased one from one that is only damaged.

# overwrite DISK OFFSET LENGTH: until all of it reads as zeros, whatever the disk thinks of discarding. Everything is
# read, since a mere sample proves nothing about a key; what was discarded reads faster than it writes, and without wear.
overwrite() {
  local disk=$1 offset=$2 end=$(($2 + $3)) start=$SECONDS position=$2 length
  limited "$LONG_PATIENCE" blkdiscard --force --offset "$2" --length "$3" "$disk" 2>/dev/null || true
  limited "$PATIENCE" blockdev --flushbufs "$disk" || return 1
  while [ "$position" -lt "$end" ]; do
    length=$((end - position < PIECE ? end - position : PIECE))
    reads_as_zeros "$disk" "$position" "$length" || blank "$disk" "$position" "$length" || return 1
    position=$((position + length))
    progress Erasing $((position - offset)) "$3" "$start"
  done
  say ""
}

reads_as_zeros() {
  limited "$PIECE_PATIENCE" dd if="$1" bs="$BLOCK" skip="$2" count="$3" iflag=skip_bytes,count_bytes,fullblock status=none |
    cmp --quiet --bytes="$3" - /dev/zero
}

# blank DISK OFFSET LENGTH: with zeros, whatever the disk thinks of discarding.
blank() { limited "$PIECE_PATIENCE" blkdiscard --force --zeroout --offset "$2" --length "$3" "$1"; }

erase() {
  local disk=$1 offset length name parts
  # Without a table that can be read, the keys may be anywhere.
  parts=$(partitions "$disk") || parts="0 $(blockdev --getsize64 "$disk") state"
  # The boot partition first: half of an appliance must not start.
  if offset=$(esp_offset "$disk" 2>/dev/null); then
    blank "$disk" "$offset" "$MIB" && limited "$PATIENCE" sync "$disk" || return 1
  fi
  # The keys of the previous appliance, really: some disks take a discard as a mere hint.
  while read -r offset length name <&4; do
    [ "$name" != state ] || overwrite "$disk" "$offset" "$length" || return 1
  done 4<<<"$parts"
  limited "$PATIENCE" sync "$disk" || return 1
  # The marks of the file systems: they stand at the beginning or at the end.
  while read -r offset length name <&4; do
    if [ -z "$offset" ] || [ "$name" = state ]; then continue; fi
    blank "$disk" "$offset" $((length < MIB ? length : MIB)) || return 1
    [ "$length" -le "$MIB" ] || blank "$disk" $((offset + length - MIB)) "$MIB" || return 1
  done 4<<<"$parts"
  limited "$PATIENCE" wipefs --all --force --quiet "$disk" || return 1
  limited "$PATIENCE" sync "$disk" || return 1
  # Old data may be patient data: let go of all of it where the disk can.
  limited "$LONG_PATIENCE" blkdiscard --force "$disk" 2>/dev/null || true
  limited "$PATIENCE" blockdev --flushbufs "$disk" || return 1
  limited "$PATIENCE" sync "$disk" || return 1
  # The kernel forgets the partitions that are no more. Not essential: nobody looks at them again.
  limited "$PATIENCE" blockdev --rereadpt "$disk" 2>/dev/null || true
}
