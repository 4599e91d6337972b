# For tests that boot an image: the raw image of a node, grown as the installer would, as the disk of a virtual T640.
{ nodes }:

# python
''
  import json
  import os
  import subprocess
  import tempfile

  disk = tempfile.NamedTemporaryFile(suffix=".qcow2")
  subprocess.run(
      [
          "${nodes.machine.virtualisation.qemu.package}/bin/qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw",
          "-b", "${nodes.machine.system.build.image}/${nodes.machine.image.filePath}", disk.name, "16G",
      ],
      check=True,
  )
  os.environ["NIX_DISK_IMAGE"] = disk.name

  machine.wait_for_unit("multi-user.target")
''
