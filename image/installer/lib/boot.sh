# shellcheck shell=bash
# What makes a written disk an appliance: the loader where every firmware looks, the site's files, and last of all the
# partition table. NVRAM is left alone: firmware that is told of boot entries has a mind of its own about them.

readonly ESP_TYPE=C12A7328-F81F-11D2-BA4B-00A0C93EC93B
readonly LOADER=EFI/systemd/systemd-bootx64.efi
readonly FALLBACK=EFI/BOOT/BOOTX64.EFI

# esp_offset TABLE: where the ESP begins, in bytes.
esp_offset() {
  local line start
  line=$(limited "$PATIENCE" sfdisk --dump "$1" | sed -n "/type=$ESP_TYPE/Ip" | sed -n 1p)
  [ -n "$line" ] || return 1
  start=$(sed -n 's/.*start= *\([0-9]*\).*/\1/p' <<<"$line")
  [ $((start * 512)) -ge "$HEAD" ] || return 1
  echo $((start * 512))
}

# The ESP is reached with mtools by its place on the disk: there is no partition yet, and no kernel driver is needed.
# They are told not to doubt the geometry, and to ask nothing.
export MTOOLS_SKIP_CHECK=1

# copy_in ESP FILE PATH, read_back ESP PATH: a file onto and from the boot partition (`DISK@@OFFSET`).
copy_in() { quietly mcopy -o -i "$1" "$2" "::$3"; }
read_back() { quietly mcopy -n -i "$1" "::$2" -; }

# quietly MTOOL…: what it says of a disk's geometry is noise, unless it fails.
quietly() {
  local said status=0
  { said=$(limited "$PIECE_PATIENCE" "$@" </dev/null 2>&1 >&3); } 3>&1 || status=$?
  [ "$status" -eq 0 ] || say "$said"
  return "$status"
}

# seeded SEED: which of the site's files there are.
seeded() {
  local file
  for file in enrolment.toml site.toml site.network; do
    [ ! -e "$1/$file" ] || echo "$file"
  done
}

# fill_esp DISK OFFSET SEED SCRATCH: the fallback boot path and the site's files, through to the disk.
fill_esp() {
  local disk=$1 esp=$1@@$2 seed=$3 scratch=$4 file
  [ -n "$(quietly mdir -b -i "$esp" '::EFI/Linux/*.efi')" ] || return 1
  read_back "$esp" "$LOADER" >"$scratch/loader" || return 1
  [ -s "$scratch/loader" ] || return 1
  quietly mmd -D s -i "$esp" ::EFI/BOOT 2>/dev/null || true
  copy_in "$esp" "$scratch/loader" "$FALLBACK" || return 1
  if [ -n "$(seeded "$seed")" ]; then
    quietly mmd -D s -i "$esp" ::appliance-seed 2>/dev/null || true
  fi
  for file in $(seeded "$seed"); do
    copy_in "$esp" "$seed/$file" "appliance-seed/$file" || return 1
  done
  limited "$PIECE_PATIENCE" sync "$disk" && limited "$PATIENCE" blockdev --flushbufs "$disk"
}

# compare_esp DISK OFFSET SEED SCRATCH: the same, read from the disk again.
compare_esp() {
  local esp=$1@@$2 seed=$3 scratch=$4 file
  read_back "$esp" "$FALLBACK" | cmp - "$scratch/loader" >&2 || return 1
  for file in $(seeded "$seed"); do
    read_back "$esp" "appliance-seed/$file" | cmp - "$seed/$file" >&2 || return 1
  done
}

# fit_table TABLE: its copy goes to the disk's end, so that the first start can use all of it.
fit_table() {
  limited "$PATIENCE" sfdisk --quiet --no-reread --no-tell-kernel --relocate gpt-bak-std "$1" >/dev/null
}

# write_table TABLE DISK: the copy at the end first, then the table itself; with that the disk boots.
write_table() {
  local table=$1 disk=$2 size
  size=$(blockdev --getsize64 "$disk")
  move "$table" "$disk" $((size - TAIL)) "$TAIL" || return 1
  move "$table" "$disk" 0 "$HEAD" || return 1
  limited "$PATIENCE" blockdev --flushbufs "$disk" || return 1
  cmp --bytes="$HEAD" "$table" "$disk" >&2 || return 1
  cmp --ignore-initial=$((size - TAIL)) "$table" "$disk" >&2
}

move() {
  limited "$PIECE_PATIENCE" dd if="$1" of="$2" bs="$MIB" skip="$3" seek="$3" count="$4" \
    iflag=skip_bytes,count_bytes,fullblock oflag=seek_bytes conv=notrunc,fsync status=none
}
