# shellcheck shell=bash
# Writing the image by its block map and reading back what was written. The first MiB (partition table) and the end (its
# copy) go to a scratch file: they are made to fit the disk and written when all else is known to be good.

readonly BLOCK=$((4 * MIB))
readonly PIECE=$((64 * MIB))
readonly HEAD=$MIB
readonly TAIL=$((33 * 512)) # the second partition table

# mapped_ranges MAP: "OFFSET LENGTH SHA256" in bytes of each range of a block map.
mapped_ranges() {
  local size block first last digest
  size=$(image_size "$1")
  block=$(sed -n 's/.*<BlockSize> *\([0-9]*\) *<.*/\1/p' "$1")
  sed -n 's/.*<Range *chksum="\([0-9a-f]*\)" *> *\([0-9]*\)\(-\([0-9]*\)\)\? *<.*/\2 \4 \1/p' "$1" |
    sed 's/^\([0-9]*\)  /\1 \1 /' |
    while read -r first last digest; do
      last=$(((last + 1) * block))
      [ "$last" -le "$size" ] || last=$size
      echo "$((first * block)) $((last - first * block)) $digest"
    done
}

# image_size MAP: the raw image's size in bytes.
image_size() { sed -n 's/.*<ImageSize> *\([0-9]*\) *<.*/\1/p' "$1"; }

# mapped_bytes MAP: how much is to be written.
mapped_bytes() {
  local total=0 length
  while read -r _ length _; do total=$((total + length)); done < <(mapped_ranges "$1")
  echo "$total"
}

# pieces OFFSET LENGTH SIZE: the range in pieces "OFFSET LENGTH table|disk".
pieces() {
  local position=$1 end=$(($1 + $2)) size=$3 stop place
  while [ "$position" -lt "$end" ]; do
    stop=$((position + PIECE)) place=disk
    if [ "$position" -lt "$HEAD" ]; then
      stop=$HEAD place=table
    elif [ "$position" -ge $((size - TAIL)) ]; then
      stop=$size place=table
    elif [ "$stop" -gt $((size - TAIL)) ]; then
      stop=$((size - TAIL))
    fi
    [ "$stop" -le "$end" ] || stop=$end
    echo "$position $((stop - position)) $place"
    position=$stop
  done
}

# write_image FILE MAP SIZE DISK TABLE: decompresses FILE; TABLE takes what is held back.
write_image() {
  local file=$1 map=$2 size=$3 disk=$4 table=$5
  zstd --decompress --stdout --quiet -- "$file" | write_stream "$map" "$size" "$disk" "$table"
}

write_stream() {
  local map=$1 size=$2 disk=$3 table=$4 start=$SECONDS position=0 done=0 total offset length at count place
  # Standard input is the image, so the lists come by other numbers.
  total=$(mapped_bytes "$map")
  while read -r offset length _ <&4; do
    move_on $((offset - position)) || return 1
    position=$((offset + length))
    while read -r at count place <&5; do
      put "${!place}" "$at" "$count" || return 1
      done=$((done + count))
      progress Writing "$done" "$total" "$start"
    done 5< <(pieces "$offset" "$length" "$size")
  done 4< <(mapped_ranges "$map")
  move_on $((size - position)) || return 1
  say ""
  # More than was announced would be lost silently.
  [ "$(head -c 1 | wc -c)" -eq 0 ]
}

# The next bytes of standard input: dropped, or written to a place.
move_on() {
  [ "$1" -eq 0 ] || [ "$(limited "$LONG_PATIENCE" head -c "$1" | wc -c)" -eq "$1" ]
}

put() {
  local target=$1 at=$2 count=$3 copied
  copied=$(limited "$PIECE_PATIENCE" dd of="$target" bs="$BLOCK" seek="$at" count="$count" \
    iflag=fullblock,count_bytes oflag=seek_bytes conv=notrunc,fdatasync 2>&1) || {
    say ""
    say "$copied"
    return 1
  }
  # A short stream is no error to dd.
  [[ $copied == *$'\n'"$count bytes "* ]]
}

# compare_image MAP SIZE DISK TABLE: reads everything back from the disk, not from memory, and compares it.
compare_image() {
  local map=$1 size=$2 disk=$3 table=$4 start=$SECONDS done=0 total offset length digest found
  total=$(mapped_bytes "$map")
  limited "$PATIENCE" blockdev --flushbufs "$disk" || return 1
  while read -r offset length digest; do
    found=$(get_range "$offset" "$length" "$size" "$disk" "$table" | sha256sum | cut -d ' ' -f 1) || found=unreadable
    if [ "$found" != "$digest" ]; then
      say ""
      say "The $length bytes from byte $offset on have SHA-256 $found instead of $digest."
      return 1
    fi
    done=$((done + length))
    progress Checking "$done" "$total" "$start"
  done < <(mapped_ranges "$map")
  say ""
}

get_range() {
  # shellcheck disable=SC2034 # disk and table are named by the third word of a piece
  local size=$3 disk=$4 table=$5 at count place
  while read -r at count place; do
    limited "$PIECE_PATIENCE" dd if="${!place}" bs="$BLOCK" skip="$at" count="$count" \
      iflag=skip_bytes,count_bytes,fullblock status=none || return 1
  done < <(pieces "$1" "$2" "$size")
}
