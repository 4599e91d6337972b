{
  applianceDistribution,
  glib,
  gobject-introspection,
  wrapGAppsNoGuiHook,
}:

applianceDistribution {
  root = ./.;

  # pydbus finds GLib's typelibs through GI_TYPELIB_PATH, which the hook collects. Python programs
  # are wrapped once, by the Python builder, so the hook only hands over its arguments.
  nativeBuildInputs = [
    gobject-introspection
    wrapGAppsNoGuiHook
  ];
  buildInputs = [ glib ];
  dontWrapGApps = true;
  preFixup = ''
    makeWrapperArgs+=("''${gappsWrapperArgs[@]}")
  '';
}
