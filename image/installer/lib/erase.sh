# shellcheck shell=bash
# What was on the disk goes first: its partition tables, the marks of its file systems, and an appliance's identity.
# From here on nothing boots from this disk until the very last step has written the new partition table.

# reads_as_zeros DISK OFFSET LENGTH: looks at the first 64 MiB, where an ext4 has its first files' blocks and tables.
reads_as_zeros() {
  local length=$(($3 < PIECE ? $3 : PIECE))
  limited "$PIECE_PATIENCE" dd if="$1" bs="$BLOCK" skip="$2" count="$length" iflag=skip_bytes,count_bytes,fullblock status=none |
    cmp --quiet --bytes="$length" - /dev/zero
}

# overwrite DISK OFFSET LENGTH: with zeros, whatever the disk thinks of it.
overwrite() {
  local disk=$1 offset=$2 end=$(($2 + $3)) start=$SECONDS position=$2 length
  while [ "$position" -lt "$end" ]; do
    length=$((end - position < PIECE ? end - position : PIECE))
    blank "$disk" "$position" "$length" || return 1
    position=$((position + length))
    progress Erasing $((position - offset)) "$3" "$start"
  done
  say ""
}

# blank DISK OFFSET LENGTH: with zeros, whatever the disk thinks of discarding.
blank() { limited "$PIECE_PATIENCE" blkdiscard --force --zeroout --offset "$2" --length "$3" "$1"; }

erase() {
  local disk=$1 offset length state parts
  parts=$(partitions "$disk")
  state=$(state_range "$disk")
  # The table first: what comes after may be interrupted.
  limited "$PATIENCE" wipefs --all --force --quiet "$disk" || return 1
  limited "$PATIENCE" sync "$disk" || return 1
  # Then the marks of the file systems: they stand at the beginning or at the end.
  while read -r offset length _ <&4; do
    [ -n "$offset" ] || continue
    blank "$disk" "$offset" $((length < MIB ? length : MIB)) || return 1
    [ "$length" -le "$MIB" ] || blank "$disk" $((offset + length - MIB)) "$MIB" || return 1
  done 4<<<"$parts"
  # Old data may be patient data: let go of all of it where the disk can.
  limited "$LONG_PATIENCE" blkdiscard --force "$disk" 2>/dev/null || true
  limited "$PATIENCE" blockdev --flushbufs "$disk" || return 1
  # The keys of the previous appliance, really: some disks take a discard as a mere hint.
  if read -r offset length <<<"$state" && [ -n "$offset" ] && ! reads_as_zeros "$disk" "$offset" "$length"; then
    overwrite "$disk" "$offset" "$length" || return 1
  fi
  limited "$PATIENCE" sync "$disk" || return 1
  # The kernel forgets the partitions that are no more. Not essential: nobody looks at them again.
  limited "$PATIENCE" blockdev --rereadpt "$disk" 2>/dev/null || true
}
