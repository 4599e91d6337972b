# shellcheck shell=bash
# The installation medium: what lies on it, which disk it is, and what a technician left there for this site.

# described DIR KEY: a value of the description beside the image (lines of KEY=VALUE).
described() {
  local value
  value=$(sed -n "s/^$2=//p" "$1/description")
  [ -n "$value" ] || fail "$NOTHING_WRITTEN" "$1/description has no line $2=…; the installation medium is damaged. Write it again."
  printf '%s\n' "$value"
}

check_medium() {
  local images=$1 key file
  [ -r "$images/description" ] ||
    fail "$NOTHING_WRITTEN" "there is no image in $images. Start from the installation medium, or say where it is with --images."
  for key in version minimum_mib sector_size map_sha256; do
    described "$images" "$key" >/dev/null
  done
  for key in image map; do
    file=$images/$(described "$images" "$key") || exit
    [ -r "$file" ] || fail "$NOTHING_WRITTEN" "$file is missing. The installation medium is damaged; write it again."
  done
  # The block map is what everything is compared with, so it comes first.
  [ "$(limited "$PATIENCE" sha256sum "$file" | cut -d ' ' -f 1)" = "$(described "$images" map_sha256)" ] ||
    fail "$NOTHING_WRITTEN" "$file is damaged, and with it the installation medium. Write it again."
}

# parent_disk DEVICE: the whole disk a partition (or a disk) belongs to.
parent_disk() {
  local parent
  parent=$(limited "$PATIENCE" lsblk --noheadings --nodeps --paths --output PKNAME "$1" 2>/dev/null | sed -n 1p) || true
  printf '%s\n' "${parent:-$1}"
}

# started_from: the disks this system was started from, one a line: where the image lies, where / lies, and the
# partition the firmware's loader came from.
started_from() {
  local mount source uuid variable
  for mount in "${1:-/iso}" / /nix/.ro-store; do
    source=$(findmnt --noheadings --output SOURCE --target "$mount" 2>/dev/null | sed -n 1p) || continue
    [ -b "$source" ] || continue
    parent_disk "$source"
  done
  variable=$SYS/firmware/efi/efivars/LoaderDevicePartUUID-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f
  if [ -r "$variable" ]; then
    # Four bytes of attributes come first. They are read and not skipped: this file system cannot seek.
    uuid=$({ head -c 4 >/dev/null && cat; } <"$variable" | tr -d '\0' | tr '[:upper:]' '[:lower:]')
    source=$(limited "$PATIENCE" blkid --list-one --output device --match-token "PARTUUID=$uuid") && parent_disk "$source"
  fi
  true
}

# boot_media IMAGES: the same and every other disk that is an installation medium itself.
boot_media() {
  {
    started_from "$1"
    limited "$PATIENCE" blkid --output device --match-token TYPE=iso9660 2>/dev/null | while read -r source; do
      parent_disk "$source"
    done || true
  } | sort -u
}

# take_seed IMAGES DIR: copies the site's files from the folder `appliance-seed` of the medium's boot partition to DIR.
take_seed() {
  local images=$1 target=$2 medium table offset parts
  mkdir -p "$target"
  # For a medium whose file system was made with the folder in it.
  if [ -d "$images/../appliance-seed" ]; then
    cp --recursive --no-preserve=all "$images/../appliance-seed/." "$target" || unreadable_seed
  fi
  [ "$(findmnt --noheadings --output FSTYPE --target "$images" 2>/dev/null)" = iso9660 ] || return 0
  medium=$(parent_disk "$(findmnt --noheadings --output SOURCE --target "$images")")
  # A copy of the partition table: on a CD it counts in other sectors than the drive.
  table=$target.table
  limited "$PATIENCE" dd if="$medium" of="$table" bs="$MIB" count=1 iflag=fullblock status=none || unreadable_seed
  truncate --size "$(blockdev --getsize64 "$medium")" "$table"
  parts=$(partitions "$table") || unreadable_seed
  while read -r offset _ <&4; do
    [ -n "$offset" ] || continue
    limited "$PATIENCE" dd if="$medium" of="$target.sector" bs=512 skip="$offset" count=512 \
      iflag=skip_bytes,count_bytes,fullblock status=none || unreadable_seed
    if is_fat "$target.sector"; then
      take_folder "$medium@@$offset" "$target"
    fi
  done 4<<<"$parts"
}

# is_fat SECTOR: whether a FAT file system begins with it. mtools fails on the others as it does on a broken medium.
is_fat() {
  local place
  for place in 54 82; do
    [ "$(dd if="$1" bs=1 skip="$place" count=3 status=none | tr -d '\0')" != FAT ] || return 0
  done
  return 1
}

# take_folder ESP DIR: every known file that is listed must be read. An appliance without its site's settings, or a
# question nobody is there to answer, would be found out much later.
take_folder() {
  local listed file
  listed=$(quietly mdir -b -i "$1" ::) || unreadable_seed
  grep --quiet --ignore-case '/appliance-seed/\?$' <<<"$listed" || return 0
  listed=$(quietly mdir -b -i "$1" ::appliance-seed) || unreadable_seed
  for file in enrolment.toml site.toml site.network unattended; do
    grep --quiet --ignore-case "/$file\$" <<<"$listed" || continue
    read_back "$1" "appliance-seed/$file" >"$2/$file" || unreadable_seed
  done
}

unreadable_seed() {
  fail "$NOTHING_WRITTEN" "the site's settings on the installation medium cannot be read. It is damaged; write it again."
}
