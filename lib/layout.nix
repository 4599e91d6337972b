# image/layout.toml as Nix sees it: the file itself, and the definitions derived from it. No size,
# label or file name of the disk is written anywhere else in Nix.
{ lib }:

let
  layout = lib.importTOML ../image/layout.toml;
  flavour = layout.flavour.nixos;

  mebibytes = size: "${toString size}M";

  types = {
    esp = _: "esp";
    verity = _: flavour.verity_type;
    data = _: flavour.data_type;
    state = partition: partition.type;
  };

  partitionType = partition: types.${partition.role} partition;

  # A partition of a fixed size has the same minimum and maximum; the one that grows has only a minimum.
  sizes =
    partition:
    {
      SizeMinBytes = mebibytes partition.size_mib;
    }
    // lib.optionalAttrs (!(partition.grows or false)) {
      SizeMaxBytes = mebibytes partition.size_mib;
    };

  isSlot = partition: partition ? slot;

  firstWith =
    role: slot:
    lib.findFirst (partition: partition.role == role && (partition.slot or "") == slot) (throw
      "image/layout.toml has no partition with role ${role} and slot '${slot}'"
    ) layout.partition;
in
rec {
  inherit layout flavour;

  /** A name or pattern of the layout with its `@v` replaced by the version. */
  atVersion = version: lib.replaceStrings [ "@v" ] [ version ];

  esp = firstWith "esp" "";
  state = firstWith "state" "";
  dataA = firstWith "data" "a";
  verityA = firstWith "verity" "a";

  /** What systemd-repart is told while the image is built, by partition name. */
  imageDefinitions =
    version:
    let
      slotDefinition =
        partition:
        {
          Type = partitionType partition;
          Label = atVersion version partition.label;
          # Minimize together with fixed sizes: the hash tree covers what is there, not the whole slot.
          Minimize = "best";
          VerityDataBlockSizeBytes = layout.slot.data_block_size;
          VerityHashBlockSizeBytes = layout.slot.hash_block_size;
          ReadOnly = true;
          SplitName =
            if partition.role == "data" then layout.release.data_split_name else layout.release.verity_split_name;
        }
        // sizes partition;

      fixedDefinition =
        partition:
        {
          Type = partitionType partition;
          Label = partition.label;
          Format = partition.filesystem;
          SplitName = "-";
        }
        // sizes partition;
    in
    lib.listToAttrs (
      map (partition: {
        inherit (partition) name;
        value = if isSlot partition then slotDefinition partition else fixedDefinition partition;
      }) (lib.filter (partition: partition.built == "image") layout.partition)
    );

  /**
    What systemd-repart is told on the device. Every partition is listed in the order of the disk,
    because repart matches existing partitions to definitions by type and order. The label of slot A
    is only used where it has none.
  */
  deviceDefinitions =
    version:
    lib.listToAttrs (
      map (partition: {
        inherit (partition) name;
        value = {
          Type = partitionType partition;
          Label = atVersion version partition.label;
        }
        // sizes partition
        // lib.optionalAttrs (isSlot partition) { ReadOnly = true; }
        // lib.optionalAttrs (partition ? filesystem) { Format = partition.filesystem; }
        // lib.optionalAttrs (partition.label == layout.slot.empty_label) { NoAuto = true; }
        // lib.optionalAttrs (partition ? priority) { Priority = partition.priority; };
      }) layout.partition
    );

  /**
    What systemd-sysupdate is told: from the updater's staging folder into the other slot, and last
    the UKI with its counter.
  */
  transfers =
    let
      transfer = source: target: {
        Transfer = {
          ProtectVersion = "%A";
          Verify = false;
        };
        Source = {
          Type = "regular-file";
          Path = "/var/lib/appliance-update/staging";
          MatchPattern = source;
        };
        Target = target // {
          InstancesMax = 2;
        };
      };
      slotTarget = label: type: {
        Type = "partition";
        Path = "auto";
        MatchPattern = label;
        MatchPartitionType = type;
        PartitionFlags = 0;
        ReadOnly = true;
      };
    in
    {
      "10-verity" = transfer layout.staged.verity (
        slotTarget layout.slot.verity_label flavour.verity_type
      );
      "20-data" = transfer layout.staged.data (slotTarget layout.slot.data_label flavour.data_type);
      "90-uki" = transfer layout.staged.uki {
        Type = "regular-file";
        Path = layout.esp.uki_directory;
        PathRelativeTo = "boot";
        MatchPattern = lib.concatStringsSep " " (layout.esp.uki_counted ++ [ layout.esp.uki_name ]);
        Mode = layout.esp.uki_mode;
        TriesLeft = layout.boot.tries;
        TriesDone = 0;
      };
    };

  /** Names of a release's files. The partition's UUID is known only once the image is built. */
  releaseFiles = version: {
    data = atVersion version layout.release.data;
    verity = atVersion version layout.release.verity;
    uki = atVersion version layout.release.uki;
  };

  /** The smallest disk that holds every partition, in MiB, with room for both partition tables. */
  minimumMib = 2 + lib.foldl' (sum: partition: sum + partition.size_mib) 0 layout.partition;

  /** The longest label a version makes, in characters. */
  longestLabel =
    version:
    lib.foldl' lib.max 0 (
      map (label: lib.stringLength (atVersion version label)) [
        layout.slot.data_label
        layout.slot.verity_label
      ]
    );
}
