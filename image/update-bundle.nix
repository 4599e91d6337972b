# A release as it is published: both halves of the slot under names that carry their UUIDs, and the
# UKI without a counter, which the device sets. `appliance-release` signs this folder.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  inherit (import ../lib/layout.nix { inherit lib; }) layout atVersion releaseFiles;

  version = config.system.image.version;
  names = releaseFiles version;

  # A file name with the UUID as a shell pattern.
  pattern = lib.replaceStrings [ "@u" ] [ "*" ];
in
{
  system.build.updateBundle =
    pkgs.runCommand "${layout.image.id}-update-${version}"
      {
        meta.description = "Release files of the appliance's image, version ${version}, not yet signed";
      }
      ''
        mkdir $out
        cp ${config.system.build.image}/${pattern names.data} $out/
        cp ${config.system.build.image}/${pattern names.verity} $out/
        cp ${config.system.build.uki}/${config.system.boot.loader.ukiFile} $out/${names.uki}
        ${lib.optionalString config.appliance.recovery.enable ''
          cp ${config.system.build.recovery}/*.efi $out/${atVersion config.appliance.recovery.version layout.release.recovery}
        ''}

        # One file each, or the device would not know which to take.
        for pattern in ${lib.escapeShellArgs (map pattern (lib.attrValues names))}; do
          count=$(find $out -name "$pattern" | wc -l)
          if [ "$count" -ne 1 ]; then
            echo "the bundle has $count files called $pattern instead of one" >&2
            exit 1
          fi
        done
      '';
}
