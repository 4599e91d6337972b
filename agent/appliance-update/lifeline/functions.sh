# shellcheck shell=sh disable=SC2034 # what is set here is read by those who read this file
# What the lifeline, the slot tool, the recovery and the status page share. POSIX sh, no Python, nothing that the parts
# it may have to repair could break: coreutils, util-linux (sfdisk, flock, mount), sed.
#
# Read with `.`, after `library` is set. APPLIANCE_LIFELINE_ROOT is the tests' way to another machine's facts.

root=${APPLIANCE_LIFELINE_ROOT:-}
: "${library:?}"
# shellcheck source=/dev/null # made at build time by make_layout.py
. "$library/layout.sh"
: "${layout_image_id:?} ${layout_flavour:?} ${layout_root_hash_argument:?} ${layout_mapper:?} ${layout_esp_number:?}"
: "${layout_esp_type:?} ${layout_data_type:?} ${layout_verity_type:?} ${layout_empty_label:?} ${layout_tries:?}"
: "${layout_esp_mount_points:?} ${layout_uki_directory:?} ${layout_uki_prefix:?} ${layout_uki_suffix:?}"
: "${layout_data_label_prefix:?} ${layout_verity_label_prefix:?} ${layout_recovery_prefix:?}"
: "${layout_version_pattern:?} ${layout_recovery_suffix:?} ${layout_state_number:?} ${layout_state_mount_point:?}"

efivars=$root/sys/firmware/efi/efivars
loader_guid=4a67b082-0a4c-41cf-b6c7-440b29bb8c4f
runtime=$root/run/appliance-lifeline
state=$root/var/lib/appliance-lifeline
updater_runtime=$root/run/appliance-update
updater_state=$root/var/lib/appliance-update
LC_ALL=C
export LC_ALL

# -- words and numbers ------------------------------------------------------------------------------------------------

is_digits() { case $1 in '' | *[!0-9]* | ????????????????*) return 1 ;; esac; }
# A leading zero is octal to one shell and an error to the next.
is_number() { is_digits "$1" && case $1 in 0?*) return 1 ;; esac; }
is_version() { case $1 in *[!0-9.]*) return 1 ;; esac; printf '%s\n' "$1" | grep -Eqx "$layout_version_pattern"; }
is_hash() { case $1 in *[!0-9a-f]*) return 1 ;; esac; [ ${#1} -eq 64 ]; }

# version_less A B: whether version A comes before B, number by number.
version_less() {
    left_rest=$1. right_rest=$2.
    while [ -n "$left_rest" ] && [ -n "$right_rest" ]; do
        left_part=${left_rest%%.*} right_part=${right_rest%%.*}
        left_rest=${left_rest#*.} right_rest=${right_rest#*.}
        [ "$left_part" -ge "$right_part" ] || return 0
        [ "$left_part" -le "$right_part" ] || return 1
    done
    [ -z "$left_rest" ] && [ -n "$right_rest" ]
}

# printable: what may stand on a screen, in a line of a log and in a JSON string; the rest is left out.
printable() { tr '\n\t' '  ' | tr -d '\000-\037\177-\377' | head -c 600; }
json_text() { printf '%s' "$1" | printable | sed 's/[\\"]/\\&/g'; }

now() { date +%s; }

# -- what the running system says -------------------------------------------------------------------------------------

release_field() {
    for release_file in "$root/etc/os-release" "$root/usr/lib/os-release"; do
        [ -r "$release_file" ] || continue
        sed -n "s/^$1=//p" "$release_file" | tail -n 1 | tr -d "\"'"
        return
    done
}

kernel_argument() { tr ' ' '\n' <"$root/proc/cmdline" | sed -n "s/^$1=//p" | tail -n 1; }

build_time() {
    built=$(head -n 1 "$root/usr/share/appliance-update/build-time" 2>/dev/null)
    is_number "$built" || built=0
    echo "$built"
}

# efivarfs cannot seek: plain `tail -c +5 FILE` fails, a pipe works. The text is UTF-16, all ASCII.
loader_variable() {
    [ -e "$efivars/$1-$loader_guid" ] || return 1
    # shellcheck disable=SC2002 # the cat is not useless: its reads are in order, tail's would seek
    cat "$efivars/$1-$loader_guid" | tail -c +5 | tr -d '\000'
}

# -- the disk ---------------------------------------------------------------------------------------------------------
# Every function below that cannot tell says so with `trouble` and returns 1. Nothing is ever assumed.

trouble=
fails() { trouble=$*; return 1; }

# parent_of PARTITION: the kernel's name of the disk a partition lies on.
parent_of() {
    parent_path=$(readlink -f "$root/sys/class/block/$1") || return 1
    parent_path=${parent_path%/*}
    echo "${parent_path##*/}"
}

# partition_name NUMBER: the kernel's name of a partition of $disk.
partition_name() {
    for partition_path in "$root"/sys/class/block/"$disk"*; do
        [ "$(cat "$partition_path/partition" 2>/dev/null)" = "$1" ] || continue
        [ "$(parent_of "${partition_path##*/}")" = "$disk" ] || continue
        echo "${partition_path##*/}"
        return
    done
    return 1
}

read_table() {
    table=$(sfdisk --dump "$root/dev/$disk" 2>/dev/null) || fails "/dev/$disk has no readable partition table"
}

# table_field NUMBER KEY: start, size (sectors), type, uuid (32 hex digits), name or attrs, as the table on the disk has it.
table_field() {
    case $2 in
        start | size) printf '%s\n' "$table" | sed -n "s/^[^ ]*[^0-9 ]$1 : .*$2= *\([0-9]*\).*/\1/p" ;;
        type) printf '%s\n' "$table" | sed -n "s/^[^ ]*[^0-9 ]$1 : .*type=\([^,]*\).*/\1/p" ;;
        uuid) printf '%s\n' "$table" | sed -n "s/^[^ ]*[^0-9 ]$1 : .*uuid=\([^,]*\).*/\1/p" | tr 'A-F' 'a-f' | tr -d - ;;
        name | attrs) printf '%s\n' "$table" | sed -n "s/^[^ ]*[^0-9 ]$1 : .*$2=\"\([^\"]*\)\".*/\1/p" ;;
    esac
}

number_of() { eval "echo \"\$layout_$1_$2_number\""; }
bytes_of() { eval "echo \"\$layout_$1_bytes\""; }
sector_size() { printf '%s\n' "$table" | sed -n 's/^sector-size: *//p' | grep . || echo 512; }

# slot_version a|b: the version both labels of a slot name; empty when they do not.
slot_version() {
    data_name=$(table_field "$(number_of data "$1")" name) verity_name=$(table_field "$(number_of verity "$1")" name)
    case $data_name in "$layout_data_label_prefix"*) ;; *) return ;; esac
    slot_found=${data_name#"$layout_data_label_prefix"}
    if is_version "$slot_found" && [ "$verity_name" = "$layout_verity_label_prefix$slot_found" ]; then
        echo "$slot_found"
    fi
}

slot_hash() { echo "$(table_field "$(number_of data "$1")" uuid)$(table_field "$(number_of verity "$1")" uuid)"; }
other_slot() { case $1 in a) echo b ;; b) echo a ;; esac; }

# The table must be that of layout.toml: a slot that is too small or elsewhere is not ours to write.
check_table() {
    [ "$(table_field "$layout_esp_number" type)" = "$layout_esp_type" ] ||
        fails "partition $layout_esp_number of /dev/$disk is not an ESP" || return 1
    sector=$(sector_size)
    for slot in a b; do
        for role in data verity; do
            number=$(number_of "$role" "$slot")
            sectors=$(table_field "$number" size)
            is_number "$sectors" || fails "slot $slot is incomplete: partition $number of /dev/$disk is missing" || return 1
            [ $((sectors * sector)) -eq "$(bytes_of "$role")" ] ||
                fails "partition $number of /dev/$disk has $((sectors * sector)) bytes, layout.toml says $(bytes_of "$role")" ||
                return 1
        done
    done
}

# inspect_booted: sets disk, booted (a or b), running (its version) from the running system. Three things must agree: the
# root hash of the kernel's command line, the partitions below the verity device in use, and the table.
inspect_booted() {
    disk='' booted='' mapped=''
    hash=$(kernel_argument "$layout_root_hash_argument")
    is_hash "$hash" || fails "the kernel was started without a root hash: this system does not run from a slot" || return 1
    for mapper_path in "$root"/sys/class/block/*; do
        [ "$(cat "$mapper_path/dm/name" 2>/dev/null)" = "$layout_mapper" ] || continue
        for slave in "$mapper_path"/slaves/*; do
            name=${slave##*/}
            found=$(parent_of "$name")
            [ -e "$root/dev/${found:-no disk}" ] || continue
            [ -z "$disk" ] || [ "$disk" = "$found" ] ||
                fails "/dev/mapper/$layout_mapper lies on more than one disk" || return 1
            disk=$found
            mapped="$mapped $(cat "$root/sys/class/block/$name/partition" 2>/dev/null) "
        done
    done
    [ -n "$disk" ] || fails "/dev/mapper/$layout_mapper is missing: the running system lies on no verified slot" || return 1
    read_table && check_table || return 1
    for slot in a b; do
        [ "$(slot_hash "$slot")" = "$hash" ] || continue
        [ -z "$booted" ] || fails "both slots carry the running system's identity" || return 1
        booted=$slot
    done
    [ -n "$booted" ] || fails "neither slot of /dev/$disk carries the running system's root hash" || return 1
    for role in data verity; do
        case $mapped in
            *" $(number_of "$role" "$booted") "*) ;;
            *) fails "slot $booted carries the root hash, but the running system lies on other partitions" || return 1 ;;
        esac
    done
    running=$(release_field IMAGE_VERSION)
    is_version "$running" || fails "os-release names no version of an image" || return 1
    [ "$(slot_version "$booted")" = "$running" ] ||
        fails "the running system calls itself '$running', its slot is labelled '$(slot_version "$booted")'"
}

# inspect_unbooted: the same for the recovery, which runs from no slot: the one disk that has our table.
inspect_unbooted() {
    disk='' booted='' running='' chosen=''
    for disk_path in "$root"/sys/class/block/*; do
        disk=${disk_path##*/}
        case $disk in dm-* | loop* | ram* | zram* | md* | nbd* | sr* | fd*) continue ;; esac
        { [ ! -e "$disk_path/partition" ] && [ -e "$root/dev/$disk" ] && read_table && check_table; } || continue
        [ -z "$chosen" ] || fails "/dev/$chosen and /dev/$disk both look like the appliance's disk; unplug one" || return 1
        chosen=$disk
    done
    disk=$chosen
    [ -n "$disk" ] || fails "no disk carries the appliance's partitions" || return 1
    read_table
}

inspect() { if [ "${recovering:-no}" = yes ]; then inspect_unbooted; else inspect_booted; fi; }

# -- the ESP and its entries ------------------------------------------------------------------------------------------

# find_esp: sets esp to where this disk's ESP is mounted, and mounts it where it is not.
find_esp() {
    esp=${APPLIANCE_LIFELINE_ESP:-}
    [ -z "$esp" ] || return 0
    esp_name=$(partition_name "$layout_esp_number") || fails "the kernel does not know the ESP of /dev/$disk" || return 1
    esp_device=$(cat "$root/sys/class/block/$esp_name/dev")
    for mount_point in $layout_esp_mount_points; do
        [ -d "$root$mount_point/EFI" ] || continue # looking at it made an automount mount it
        while read -r _ _ device _ where _; do
            if [ "$device" = "$esp_device" ] && [ "$where" = "$mount_point" ]; then
                esp=$root$mount_point
                return 0
            fi
        done <"$root/proc/self/mountinfo"
    done
    esp=$runtime/esp
    mkdir -p "$esp"
    while read -r _ _ device _ where _; do
        if [ "$device" = "$esp_device" ] && [ "$where" = "$esp" ]; then return 0; fi
    done <"$root/proc/self/mountinfo"
    mount -t vfat -o rw,nodev,nosuid,noexec,umask=0077 "/dev/$esp_name" "$esp" 2>/dev/null ||
        fails "the ESP /dev/$esp_name is mounted nowhere and cannot be mounted"
}

# entries [PREFIX SUFFIX]: each boot entry as "file version left done"; left is "-" when it is not counted.
entries() {
    entry_prefix=${1:-$layout_uki_prefix} entry_suffix=${2:-$layout_uki_suffix}
    for entry_path in "$esp$layout_uki_directory/$entry_prefix"*"$entry_suffix"; do
        [ -f "$entry_path" ] || continue
        entry_name=${entry_path##*/}
        entry_middle=${entry_name#"$entry_prefix"}
        entry_middle=${entry_middle%"$entry_suffix"}
        entry_left=- entry_done=0
        case $entry_middle in
            *+*-*) entry_left=${entry_middle#*+} entry_done=${entry_middle##*-} entry_left=${entry_left%%-*} ;;
            *+*) entry_left=${entry_middle#*+} ;;
        esac
        entry_version=${entry_middle%%+*}
        is_version "$entry_version" || continue
        is_digits "$entry_done" || continue
        [ "$entry_left" = - ] || is_digits "$entry_left" || continue
        echo "$entry_name $entry_version $entry_left $entry_done"
    done
}

# entry_state VERSION: none, good (not counted), trial (tries left) or spent; several when a stale twin is about.
entry_state() {
    entry_states=$(entries | while read -r _ version left _; do
        [ "$version" = "$1" ] || continue
        case $left in -) echo good ;; 0) echo spent ;; *) echo trial ;; esac
    done)
    case $entry_states in '') echo none ;; *"
"*) echo several ;; *) echo "$entry_states" ;; esac
}

some_entry_may_boot() { entries | while read -r _ _ left _; do [ "$left" != 0 ] && echo yes && break; done | grep -q yes; }

# -- a unified kernel image -------------------------------------------------------------------------------------------

# number_at FILE OFFSET BYTES: a little-endian number.
number_at() {
    number_value=0 number_factor=1
    for number_byte in $(od -An -v -t u1 -j "$2" -N "$3" -- "$1"); do
        number_value=$((number_value + number_byte * number_factor)) number_factor=$((number_factor * 256))
    done
    echo "$number_value"
}

# uki_section FILE NAME: the text of a section (PE/COFF); of several profiles' the base's, which comes first.
uki_section() {
    pe_header=$(number_at "$1" 60 4)
    [ "$(dd if="$1" bs=1 skip="$pe_header" count=2 2>/dev/null)" = PE ] || return 1
    pe_count=$(number_at "$1" $((pe_header + 6)) 2) pe_index=0
    pe_first=$((pe_header + 24 + $(number_at "$1" $((pe_header + 20)) 2)))
    while [ "$pe_index" -lt "$pe_count" ] && [ "$pe_index" -lt 64 ]; do
        pe_at=$((pe_first + pe_index * 40)) pe_index=$((pe_index + 1))
        [ "$(dd if="$1" bs=1 skip="$pe_at" count=8 2>/dev/null | tr -d '\000')" = "$2" ] || continue
        pe_size=$(number_at "$1" $((pe_at + 8)) 4) pe_offset=$(number_at "$1" $((pe_at + 20)) 4)
        [ "$pe_size" -le 65536 ] || return 1
        tail -c "+$((pe_offset + 1))" -- "$1" | head -c "$pe_size" | tr -d '\000'
        return 0
    done
    return 1
}

# may_start FILE: false when Secure Boot is on and the file carries no signature at all. Whose it must be only the firmware
# knows; without any it starts nothing, the boot loader ends, and nothing else is tried (docs/secure-boot.md).
may_start() {
    # shellcheck disable=SC2002 # the cat is not useless: efivarfs cannot seek
    secure=$(cat "$efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c" 2>/dev/null | tail -c +5 | od -An -t u1 | tr -d ' \n')
    [ "$secure" = 1 ] || return 0
    [ "$(number_at "$1" $(($(number_at "$1" 60 4) + 24 + 112 + 36)) 4)" -gt 0 ] # size of the certificate table (PE32+)
}

# -- telling people ---------------------------------------------------------------------------------------------------

# replace FILE MODE: stdin becomes the file, whole or not at all.
replace() {
    mkdir -p "${1%/*}" && cat >"$1.new" && chmod "$2" "$1.new" && sync "$1.new" 2>/dev/null
    mv -f "$1.new" "$1" && sync "${1%/*}" 2>/dev/null
    [ -e "$1" ]
}

# publish_slots: what is in each slot, for the status page and the console; "slot|version|state|entry".
publish_slots() {
    for slot in a b; do
        version=$(slot_version "$slot")
        if [ "$slot" = "$booted" ]; then what=running
        elif [ "$(table_field "$(number_of data "$slot")" name)" = "$layout_empty_label" ]; then what=empty
        elif [ -z "$version" ]; then what=unfinished
        else what=standby; fi
        echo "slot $slot|$version|$what|$(entry_words "$version")"
    done
    entries "$layout_recovery_prefix" "$layout_recovery_suffix" | while read -r _ version left _; do
        what=standby
        [ "${recovering:-no}" = no ] || what=running
        case $left in 0) words="spent" ;; *) words="ready" ;; esac
        echo "recovery|$version|$what|$words"
    done
}

entry_words() {
    [ -n "$1" ] || { echo "no boot entry"; return; }
    case $(entry_state "$1") in
        none) echo "no boot entry" ;;
        good) echo "proved good" ;;
        spent) echo "failed, its tries are spent" ;;
        several) echo "more than one boot entry" ;;
        trial) echo "on trial, $(entries | while read -r _ version left _; do [ "$version" != "$1" ] || echo "$left"; done) tries left" ;;
    esac
}

# addresses: the box's own, one "interface address" a line.
addresses() {
    ip -oneline address show scope global 2>/dev/null | while read -r _ interface _ address _; do
        echo "$interface $address"
    done
}
