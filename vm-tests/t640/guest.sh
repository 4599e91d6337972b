# The rig's ear inside the machine. It is no part of any image: QEMU hands it over as a credential (SMBIOS type 11).
# HELLO boot-id version uptime at every boot; then "id seconds base64(command)" in, "DONE id status out err" back.
PATH=/usr/bin:/usr/sbin:/bin:/run/current-system/sw/bin
export PATH
port=/dev/virtio-ports/t640.rig
while [ ! -c "$port" ]; do sleep 0.1; done
exec 3<>"$port"
read -r boot </proc/sys/kernel/random/boot_id
read -r uptime rest </proc/uptime
IMAGE_VERSION=unknown
. /etc/os-release
echo "HELLO $boot $IMAGE_VERSION $uptime" >&3
while read -r id seconds text <&3; do
    command=$(echo "$text" | base64 -d)
    out=$({ timeout -k 5 "$seconds" sh -c "$command" 3>&- </dev/null 2>/run/t640-rig.err; echo $? >/run/t640-rig.status; } | base64 -w0)
    read -r status </run/t640-rig.status
    err=
    [ ! -s /run/t640-rig.err ] || err=$(tail -c 4000 /run/t640-rig.err | base64 -w0)
    echo "DONE $id $status ${out:--} ${err:--}" >&3
done
