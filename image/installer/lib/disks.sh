# shellcheck shell=bash
# Which disk: the internal one, found by how it is attached. `removable` is not asked: eMMC and SATA controllers set it
# wrongly in both directions.

# attachment NAME: how a disk is attached (nvme, sata, emmc, virtio, scsi), or why it cannot be the internal disk.
attachment() {
  local name=$1 path kind
  path=$(readlink --canonicalize "$SYS/block/$name")
  case $name in
    loop* | ram* | zram* | sr* | fd* | nbd* | dm-* | md* | mtdblock*) echo "not a disk" && return ;;
    mmcblk*boot[0-9]* | mmcblk*rpmb* | mmcblk*gp[0-9]*) echo "not a disk" && return ;;
  esac
  case $path in
    */usb[0-9]*) echo "USB" ;;
    */mmc_host/*)
      # A soldered chip says MMC, a card in a reader says SD. There is no `model` here, and `removable` is no help.
      kind=$(cat "$SYS/block/$name/device/type" 2>/dev/null || true)
      if [ "$kind" = MMC ]; then echo emmc; else echo "a memory card"; fi
      ;;
    */nvme/* | */nvme-subsystem/*)
      kind=$(cat "$SYS/block/$name"/device/transport "$SYS/block/$name"/device/nvme*/transport 2>/dev/null | sed -n 1p || true)
      if [ "${kind:-pcie}" = pcie ]; then echo nvme; else echo "on the network"; fi
      ;;
    */ata[0-9]*) echo sata ;;
    */virtio[0-9]*) echo virtio ;;
    */session[0-9]* | */rport-*) echo "on the network" ;;
    */host[0-9]*) echo scsi ;;
    *) echo "attached in an unknown way" ;;
  esac
}

size_of() { echo $(($(cat "$SYS/block/$1/size") * 512)); }

# model_of NAME: eMMC has no `model` but a `name`; say something in any case.
model_of() {
  local file
  for file in device/model device/name; do
    [ ! -r "$SYS/block/$1/$file" ] || { sed 's/ *$//' "$SYS/block/$1/$file" && return; }
  done
  echo "unknown model"
}

described_disk() {
  local name=${1##*/}
  printf '%s  %d GB  %s  (%s)\n' "$1" $(($(size_of "$name") / 1000000000)) "$(model_of "$name")" "$(attachment "$name")"
}

# candidates MINIMUM_BYTES [BOOT_DISK…]: the disks that may be written to, one a line; why not, on standard error.
candidates() {
  local minimum=$1 entry name why medium
  shift
  for entry in "$SYS"/block/*; do
    [ -e "$entry/size" ] || continue
    name=${entry##*/}
    why=$(attachment "$name")
    [ "$why" != "not a disk" ] || continue
    case $why in
      nvme | sata | emmc | virtio | scsi) why= ;;
    esac
    for medium in "$@"; do
      [ "$medium" != "/dev/$name" ] || why="the installation medium"
    done
    [ "$(cat "$entry/hidden" 2>/dev/null || echo 0)" = 0 ] || continue
    [ "$(cat "$entry/ro")" = 0 ] || why=${why:-write-protected}
    [ "$(size_of "$name")" -ge "$minimum" ] || why=${why:-too small}
    if [ -z "$why" ]; then
      echo "/dev/$name"
    elif [ "$(size_of "$name")" -gt 0 ]; then
      say "  not used: /dev/$name, $(($(size_of "$name") / 1000000000)) GB, $(model_of "$name"): $why"
    fi
  done
}

# choose_disk DISK…: the one disk, or the one the person picks.
choose_disk() {
  local answer index disk
  if [ "$#" -eq 1 ]; then
    printf '%s\n' "$1"
    return
  fi
  say "This machine has several disks:"
  index=1
  for disk in "$@"; do
    say "  $index  $(described_disk "$disk")"
    index=$((index + 1))
  done
  printf 'Which one shall carry the appliance? [1-%d] ' "$#" >&2
  read -r answer || fail "$DECLINED" "no disk was chosen; nothing was changed."
  case $answer in
    *[!0-9]* | "" | ????*) fail "$DECLINED" "'$answer' is not a number of the list; nothing was changed." ;;
  esac
  if [ "$answer" -lt 1 ] || [ "$answer" -gt "$#" ]; then
    fail "$DECLINED" "'$answer' is not a number of the list; nothing was changed."
  fi
  printf '%s\n' "${!answer}"
}

# check_disk DISK MINIMUM_BYTES SECTOR_SIZE IMAGES: refuses what must not or cannot be written to.
check_disk() {
  local disk=$1 minimum=$2 sector=$3 images=$4 size mounted found media
  [ -b "$disk" ] || fail "$NOTHING_WRITTEN" "$disk is not a disk of this machine. 'lsblk' lists them."
  media=$(started_from "$images")
  if grep --quiet --line-regexp --fixed-strings "$(parent_disk "$disk")" <<<"$media"; then
    fail "$NOTHING_WRITTEN" "$disk is the medium this installer was started from."
  fi
  mounted=$(limited "$PATIENCE" lsblk --noheadings --output MOUNTPOINTS "$disk" | sed -n '/./{p;q}' || true)
  [ -z "$mounted" ] || fail "$NOTHING_WRITTEN" "$disk is in use: something of it is mounted at $mounted. Unmount it first."
  size=$(limited "$PATIENCE" blockdev --getsize64 "$disk") ||
    fail "$NOTHING_WRITTEN" "$disk does not answer. Switch the machine off and on; if it stays so, the disk is broken."
  [ "$size" -ge "$minimum" ] ||
    fail "$NOTHING_WRITTEN" "$disk has $((size / MIB)) MiB, and the appliance needs $((minimum / MIB)) MiB for two systems and its state."
  found=$(blockdev --getss "$disk")
  [ "$found" -eq "$sector" ] ||
    fail "$NOTHING_WRITTEN" "$disk has sectors of $found bytes, and this image is made for $sector. It needs an image of its own."
}

# partitions DISK: "OFFSET LENGTH NAME" in bytes of each, read from the disk itself: what the kernel knows may be older.
partitions() {
  local line start size name
  limited "$PATIENCE" sfdisk --dump "$1" 2>/dev/null | while read -r line; do
    start=$(sed -n 's/.*[:,] *start= *\([0-9]*\).*/\1/p' <<<"$line")
    size=$(sed -n 's/.*[:,] *size= *\([0-9]*\).*/\1/p' <<<"$line")
    name=$(sed -n 's/.*name="\([^"]*\)".*/\1/p' <<<"$line")
    [ -z "$start" ] || echo "$((start * 512)) $((size * 512)) $name"
  done || true
}

# probed DISK OFFSET LENGTH: what kind of content begins there.
probed() {
  limited "$PATIENCE" blkid --probe --offset "$2" --size "$3" --match-tag TYPE --match-tag LABEL "$1" 2>/dev/null |
    sed 's/^[^:]*: //' || true
}

# state_range DISK: offset and length of the partition where an appliance keeps its identity, if there is one.
state_range() { partitions "$1" | sed -n 's/ state$//p' | sed -n 1p; }

# previous_appliance DISK: one sentence about the appliance that is installed there, nothing if there is none.
previous_appliance() {
  local offset length mounted file site='' device=''
  if ! read -r offset length < <(state_range "$1"); then
    if [ -n "$(partitions "$1" | sed -n '/ [a-z0-9]*-verity_[0-9.]*$/p')" ]; then
      echo "An appliance is installed here, and has not been started yet."
    fi
    return 0
  fi
  mounted=$(mktemp --directory)
  if limited "$PATIENCE" mount --types ext4 \
    --options "loop,offset=$offset,sizelimit=$length,ro,noload,nosuid,nodev,noexec" "$1" "$mounted" 2>/dev/null; then
    file=$mounted/lib/compliance-agent/enrolment.json
    if [ -r "$file" ]; then
      site=$(sed -n 's/.*"site_name" *: *"\([^"]*\)".*/\1/p' "$file")
      device=$(sed -n 's/.*"device_id" *: *"\([^"]*\)".*/\1/p' "$file")
    fi
    limited "$PATIENCE" umount "$mounted" || true
  fi
  rmdir "$mounted"
  if [ -n "$device" ]; then
    echo "An appliance is installed here: site '$site', device $device. Its identity and its evidence will be lost."
  else
    echo "An appliance is installed here, not enrolled or not readable. Its state will be lost."
  fi
}

show_losses() {
  local offset length name found
  say ""
  say "Everything on this disk will be erased:"
  say ""
  say "  $(described_disk "$1")"
  while read -r offset length name <&4; do
    say "    $((length / MIB)) MiB  ${name:-no name}  $(probed "$1" "$offset" "$length")"
  done 4< <(partitions "$1")
  found=$(limited "$PATIENCE" blkid --probe --match-tag TYPE --match-tag LABEL "$1" 2>/dev/null | sed 's/^[^:]*: //') || true
  [ -z "$found" ] || say "    the disk itself: $found"
  found=$(previous_appliance "$1")
  [ -z "$found" ] || say "  $found"
  say ""
}

ask() {
  local disk=$1 answer name=${1##*/}
  printf 'To erase it, type its name (%s): ' "$name" >&2
  read -r answer || answer=
  [ "$answer" = "$name" ] || fail "$DECLINED" "the answer was not '$name'. Nothing was changed on $disk."
}
