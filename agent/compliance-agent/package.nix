{
  applianceDistribution,
  appliance-protocol,
  click,
  cryptography,
  glib,
  gobject-introspection,
  msgspec,
  pydbus,
  requests,
  rich,
  sqlite-utils,
  starlette,
  systemd-python,
  tenacity,
  uvicorn,
  wrapGAppsNoGuiHook,
}:

applianceDistribution {
  root = ./.;
  dependencies = [
    appliance-protocol
    click
    cryptography
    msgspec
    pydbus
    requests
    rich
    sqlite-utils
    starlette
    systemd-python
    tenacity
    uvicorn
  ];

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
