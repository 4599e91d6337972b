# Reads the unit files a distribution ships, so that Nix code never has to repeat what they say.
{ lib }:

let
  inherit (lib)
    concatMap
    filterAttrs
    foldl'
    genAttrs
    hasPrefix
    hasSuffix
    mapAttrs
    mapAttrsToList
    removePrefix
    splitString
    trim
    ;

  # The collection of `systemd.*` options a unit of each type belongs to.
  collections = {
    ".path" = "paths";
    ".service" = "services";
    ".slice" = "slices";
    ".socket" = "sockets";
    ".target" = "targets";
    ".timer" = "timers";
  };

  # "key=value" lines of the [Install] section.
  installLines =
    text:
    (foldl'
      (
        state: line:
        if hasPrefix "[" line then
          state // { inside = line == "[Install]"; }
        else if state.inside then
          state // { lines = state.lines ++ [ line ]; }
        else
          state
      )
      {
        inside = false;
        lines = [ ];
      }
      (map trim (splitString "\n" text))
    ).lines;

  # Every word assigned to `key` in the [Install] section.
  installValues =
    key: text:
    concatMap (
      line:
      if hasPrefix "${key}=" line then
        lib.filter (word: word != "") (splitString " " (removePrefix "${key}=" line))
      else
        [ ]
    ) (installLines text);

in
rec {
  /**
    The unit files in a folder: an attribute set of file names and texts. Drop-ins are named
    `<unit>.d/<file>`. A folder that does not exist has no units.
  */
  readUnits =
    folder:
    lib.optionalAttrs (lib.pathExists folder) (
      foldl' (all: each: all // each) { } (
        mapAttrsToList (
          name: type:
          if type == "directory" then
            lib.mapAttrs' (file: _: {
              name = "${name}/${file}";
              value = lib.readFile (folder + "/${name}/${file}");
            }) (lib.readDir (folder + "/${name}"))
          else
            { ${name} = lib.readFile (folder + "/${name}"); }
        ) (lib.readDir folder)
      )
    );

  /**
    The `systemd` options that do for these units what `systemctl enable` would do: NixOS ignores
    the [Install] section of files it finds in `systemd.packages`.
  */
  enableUnits =
    units:
    foldl' lib.recursiveUpdate { } (
      mapAttrsToList (
        suffix: collection:
        let
          ofThisType = filterAttrs (name: _: hasSuffix suffix name) units;
          enabled = filterAttrs (_: install: install != { }) (
            mapAttrs (
              _: text:
              filterAttrs (_: words: words != [ ]) {
                wantedBy = installValues "WantedBy" text;
                requiredBy = installValues "RequiredBy" text;
                aliases = installValues "Alias" text;
              }
            ) ofThisType
          );
        in
        lib.optionalAttrs (enabled != { }) {
          ${collection} = lib.mapAttrs' (name: value: {
            name = lib.removeSuffix suffix name;
            inherit value;
          }) enabled;
        }
      ) collections
    );

  /**
    The `systemd` options that give every service among these units the same additions, for
    example programs on its PATH.
  */
  forServices =
    units: additions:
    genAttrs (map (lib.removeSuffix ".service") (
      lib.filter (name: hasSuffix ".service" name) (lib.attrNames units)
    )) (_: additions);
}
