# Files that programs serve, inside the programs: no folder to install, none to lose.

find_program(LM_GZIP gzip REQUIRED)

# lm_assets(NAME path file ...): the library NAME, which holds each file as it is and compressed, and the table
# `const struct web_asset_list NAME` (shared/web/web_assets.h) of them. `path` is the URL's; files may lie
# anywhere, also below the build folder if a target makes them. Media types go by the file's suffix
# (lm_assets_make.cmake has the list).
function(lm_assets name)
  set(folder "${CMAKE_BINARY_DIR}/assets/${name}")
  set(rest ${ARGN})
  set(paths)
  set(files)
  while(rest)
    list(POP_FRONT rest path file)
    if(NOT file)
      message(FATAL_ERROR "lm_assets(${name}): ${path} has no file")
    endif()
    get_filename_component(file "${file}" ABSOLUTE BASE_DIR "${CMAKE_CURRENT_SOURCE_DIR}")
    list(APPEND paths "${path}")
    list(APPEND files "${file}")
  endwhile()
  file(CONFIGURE OUTPUT "${folder}/list.cmake" @ONLY CONTENT
    "set(NAME [[@name@]])\nset(PATHS [[@paths@]])\nset(FILES [[@files@]])\nset(LM_GZIP [[@LM_GZIP@]])\n")
  set(maker "${CMAKE_SOURCE_DIR}/cmake/lm_assets_make.cmake")
  add_custom_command(OUTPUT "${folder}/${name}.c" "${folder}/${name}.S"
    COMMAND ${CMAKE_COMMAND} -P "${maker}"
    WORKING_DIRECTORY "${folder}"
    DEPENDS "${folder}/list.cmake" "${maker}" ${files}
    COMMENT "Packing assets of ${name}" VERBATIM)
  add_library(${name} STATIC "${folder}/${name}.c" "${folder}/${name}.S")
  target_include_directories(${name} PRIVATE "${CMAKE_SOURCE_DIR}")
endfunction()
