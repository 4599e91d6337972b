# Builds the disk image: an ESP with the boot loader and the first UKI, and slot A with its dm-verity
# hash. Slot B and the state come at the first boot.
{
  config,
  lib,
  modulesPath,
  pkgs,
  ...
}:

let
  inherit (import ../lib/layout.nix { inherit lib; })
    layout
    atVersion
    esp
    dataA
    verityA
    imageDefinitions
    ;

  version = config.system.image.version;
  definitions = imageDefinitions version;
in
{
  imports = [ "${modulesPath}/image/repart.nix" ];

  image.repart = {
    sectorSize = layout.image.sector_size;
    split = true;
    compression = {
      enable = true;
      algorithm = layout.release.compression;
    };

    # So that two versions which differ in one package differ in few bytes, and devices fetch only those: without inline
    # tails erofs keeps its inodes together instead of scattering block numbers over the image, which change with the
    # length of one file. Times and the salt of the hash tree are the same in every version already (nixpkgs' seed, the
    # store's times). Compressed, because reading is what a boot on small hardware waits for.
    mkfsOptions.erofs = [
      "-zlz4hc"
      "-C16384"
      "-Enoinline_data"
    ];

    verityStore = {
      enable = true;
      ukiPath = "${layout.esp.uki_directory}/${atVersion version layout.esp.uki_first}";
      partitionIds = {
        esp = esp.name;
        store = dataA.name;
        store-verity = verityA.name;
      };
    };

    partitions = lib.mkMerge [
      (lib.mapAttrs (_: repartConfig: { inherit repartConfig; }) definitions)
      {
        ${esp.name}.contents = {
          ${layout.esp.loader}.source = config.appliance.secureBoot.loader;
          ${layout.esp.fallback_loader}.source = config.appliance.secureBoot.loader;
          ${layout.esp.loader_conf}.source = pkgs.writeText "loader.conf" layout.esp.loader_conf_text;
        };

        # The slot is /usr on the device, so this is where the updater looks for the earliest possible time.
        ${dataA.name}.contents."/share/appliance-update/build-time".source =
          pkgs.writeText "build-time" "${toString config.appliance.identity.builtAt}\n";
      }
    ];
  };
}
