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

# identities DISK…: what tells each from any other disk that may get its name later. The kernel counts up diskseq whenever
# a disk or what is behind it changes.
identities() {
  local disk fact
  for disk in "$@"; do
    printf '%s' "$disk"
    for fact in diskseq size wwid device/wwid device/serial device/cid; do
      printf ' %s' "$(cat "$SYS/block/${disk##*/}/$fact" 2>/dev/null || true)"
    done
    echo
  done
}

# check_same DISK IDENTITIES: refuses a disk that is not one of those that were looked at.
check_same() {
  grep --quiet --line-regexp --fixed-strings -e "$(identities "$1")" <<<"$2" ||
    fail "$NOTHING_WRITTEN" "$1 is not the disk it was when it was chosen: a disk was pulled out or put in. Start again."
}

# check_whole DISK: refuses parts of disks, and what is made of disks. A loop device is let through: nobody gets one
# offered, and who names one wants a file written.
check_whole() {
  local name=${1##*/}
  # Partitions are not in this folder.
  [ -e "$SYS/block/$name/size" ] || fail "$NOTHING_WRITTEN" "$1 is not a whole disk of this machine. 'lsblk --nodeps' lists them."
  case $name in loop*) return ;; esac
  [ "$(attachment "$name")" != "not a disk" ] || fail "$NOTHING_WRITTEN" "$1 is not a disk, but something made of one. Name the disk itself."
}

# check_disk DISK MINIMUM_BYTES SECTOR_SIZE IMAGES: refuses what must not or cannot be written to.
check_disk() {
  local disk=$1 minimum=$2 sector=$3 images=$4 size mounted found media
  [ -b "$disk" ] || fail "$NOTHING_WRITTEN" "$disk is not a disk of this machine. 'lsblk' lists them."
  check_whole "$disk"
  media=$(started_from "$images")
  if grep --quiet --line-regexp --fixed-strings "$(parent_disk "$disk")" <<<"$media"; then
    fail "$NOTHING_WRITTEN" "$disk is the medium this installer was started from."
  fi
  mounted=$(limited "$PATIENCE" lsblk --noheadings --output MOUNTPOINTS "$disk" | sed -n '/./{p;q}' || true)
  [ -z "$mounted" ] || fail "$NOTHING_WRITTEN" "$disk is in use: something of it is mounted at $mounted. Unmount it first."
  # A RAID, an encryption or a ZFS keeps a disk to itself without a mount. Nothing is erased here: without --force
  # this opens the whole disk for itself alone.
  mounted=$(limited "$PATIENCE" wipefs --all --no-act --quiet "$disk" 2>&1 >/dev/null) ||
    fail "$NOTHING_WRITTEN" "$disk is in use by something else (RAID, encryption, ZFS) or write-protected: $mounted"
  size=$(limited "$PATIENCE" blockdev --getsize64 "$disk") ||
    fail "$NOTHING_WRITTEN" "$disk does not answer. Switch the machine off and on; if it stays so, the disk is broken."
  [ "$size" -ge "$minimum" ] ||
    fail "$NOTHING_WRITTEN" "$disk has $((size / MIB)) MiB, and the appliance needs $((minimum / MIB)) MiB for two systems and its state."
  found=$(blockdev --getss "$disk")
  [ "$found" -eq "$sector" ] ||
    fail "$NOTHING_WRITTEN" "$disk has sectors of $found bytes, and this image is made for $sector. It needs an image of its own."
}

# partitions DISK: "OFFSET LENGTH NAME" in bytes of each, read from the disk itself: what the kernel knows may be older.
# Status 1: it cannot be told whether there are any, and silence must not be taken for an empty disk.
partitions() {
  local dump line start size name
  dump=$(limited "$PATIENCE" sfdisk --dump "$1" 2>/dev/null) || dump=
  if [ -z "$dump" ]; then
    has_no_table "$1"
    return
  fi
  # Of a damaged GPT only the entry is left that should protect it (a hybrid medium has others beside it).
  if [[ $dump != *'label: gpt'* && $dump =~ type=ee ]] && [ "$(grep --count 'start=' <<<"$dump")" -eq 1 ]; then return 1; fi
  while read -r line; do
    start=$(sed -n 's/.*[:,] *start= *\([0-9]*\).*/\1/p' <<<"$line")
    size=$(sed -n 's/.*[:,] *size= *\([0-9]*\).*/\1/p' <<<"$line")
    name=$(sed -n 's/.*name="\([^"]*\)".*/\1/p' <<<"$line")
    [ -z "$start" ] || echo "$((start * 512)) $((size * 512)) $name"
  done <<<"$dump"
}

# has_no_table DISK: whether its first and last sectors can be read, and neither holds the mark of an appliance's table.
has_no_table() {
  local size span=$((34 * 512)) offset found
  # Of a disk, or of the copy of a medium's table.
  size=$(limited "$PATIENCE" blockdev --getsize64 "$1" 2>/dev/null || stat --dereference --format=%s "$1") || return 1
  [ "$size" -ge "$span" ] || span=$size
  for offset in 0 $((size - span)); do
    found=$(limited "$PATIENCE" dd if="$1" bs="$MIB" skip="$offset" count="$span" \
      iflag=skip_bytes,count_bytes,fullblock status=none | od --address-radix=n --output-duplicates --format=x1 | tr -d ' \n') || return 1
    # A short read is no error to dd. The mark is "EFI PART".
    [ "${#found}" -eq $((span * 2)) ] && [[ $found != *4546492050415254* ]] || return 1
  done
}

# probed DISK OFFSET LENGTH: what kind of content begins there.
probed() {
  limited "$PATIENCE" blkid --probe --offset "$2" --size "$3" --match-tag TYPE --match-tag LABEL "$1" 2>/dev/null |
    sed 's/^[^:]*: //' || true
}

# previous_appliance DISK: one sentence about the appliance that is installed there, nothing if there is none.
previous_appliance() {
  local offset length mounted file site='' device='' parts
  if ! parts=$(partitions "$1"); then
    echo "Its partition table cannot be read. An appliance may be installed here."
    return 0
  fi
  if ! read -r offset length < <(sed -n 's/ state$//p' <<<"$parts"); then
    if grep --quiet ' [a-z0-9]*-verity_[0-9.]*$' <<<"$parts"; then
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
