# Compiler flags common to every target, and the functions that declare targets by folder.

add_library(lm_flags INTERFACE)
target_include_directories(lm_flags INTERFACE "${CMAKE_SOURCE_DIR}")
target_compile_definitions(lm_flags INTERFACE _GNU_SOURCE LM_VERSION="${PROJECT_VERSION}")
target_compile_options(lm_flags INTERFACE
  -Wall -Wextra -Wshadow -Wvla -Wundef -Wpointer-arith -Wwrite-strings -fno-omit-frame-pointer
  $<$<COMPILE_LANGUAGE:C>:-Wstrict-prototypes> $<$<COMPILE_LANGUAGE:C>:-Wmissing-prototypes>
  $<$<COMPILE_LANGUAGE:C>:-fno-common>
  # Equal bits on every path: the compiler must not fuse or reassociate floating point by itself.
  -ffp-contract=off)
if(LM_WERROR)
  target_compile_options(lm_flags INTERFACE -Werror)
endif()
if(LM_SANITIZE)
  target_compile_options(lm_flags INTERFACE -fsanitize=${LM_SANITIZE} -fno-sanitize-recover=all)
  target_link_options(lm_flags INTERFACE -fsanitize=${LM_SANITIZE})
endif()

# Files named *_avx2.c, *_avx512.c are compiled for that instruction set and chosen by cpuid at run time.
set(LM_ISA_SOURCES "kernels/cpu/[a-z_]*_(scalar|avx2|avx512)\\.c$")
function(lm_isa_flags source)
  if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    return()
  endif()
  if(source MATCHES "_avx2\\.c$")
    set_property(SOURCE ${source} APPEND PROPERTY COMPILE_OPTIONS -mavx2 -mfma -mf16c)
  elseif(source MATCHES "_avx512\\.c$")
    set_property(SOURCE ${source} APPEND PROPERTY COMPILE_OPTIONS
      -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni
      -mprefer-vector-width=512)
  endif()
endfunction()

# lm_library(NAME folder... LINK libs...): every .c of the folders, one static library.
function(lm_library name)
  cmake_parse_arguments(arg "" "" "LINK" ${ARGN})
  set(sources)
  foreach(folder IN LISTS arg_UNPARSED_ARGUMENTS)
    file(GLOB found CONFIGURE_DEPENDS RELATIVE "${CMAKE_SOURCE_DIR}" "${folder}/*.c")
    list(APPEND sources ${found})
  endforeach()
  if(NOT sources)
    add_library(${name} INTERFACE)
    target_link_libraries(${name} INTERFACE ${arg_LINK} lm_flags)
    return()
  endif()
  add_library(${name} STATIC ${sources})
  target_link_libraries(${name} PUBLIC ${arg_LINK} lm_flags)
  foreach(source IN LISTS sources)
    lm_isa_flags(${source})
    # Inner loops take most of the time of whatever runs a model. Tests of kernels are linked with
    # instrumented ones (lm_kernels_sanitized), all others compute as fast as they can.
    if(LM_SANITIZE MATCHES "address" AND source MATCHES "${LM_ISA_SOURCES}")
      set_property(SOURCE ${source} APPEND PROPERTY COMPILE_OPTIONS -fno-sanitize=all)
    endif()
  endforeach()
endfunction()

# lm_program(NAME folder LINK libs...): every .c of the folder. All but NAME_main.c also form the
# library NAME-parts, so that tests can link the parts without main().
function(lm_program name folder)
  cmake_parse_arguments(arg "" "" "LINK" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS RELATIVE "${CMAKE_SOURCE_DIR}" "${folder}/*.c")
  set(mains ${sources})
  list(FILTER mains INCLUDE REGEX "_main\\.c$")
  list(FILTER sources EXCLUDE REGEX "_main\\.c$")
  if(NOT mains)
    return()
  endif()
  if(sources)
    add_library(${name}-parts STATIC ${sources})
    target_link_libraries(${name}-parts PUBLIC ${arg_LINK} lm_flags)
    set(arg_LINK ${name}-parts ${arg_LINK})
  endif()
  add_executable(${name} ${mains})
  target_link_libraries(${name} PRIVATE ${arg_LINK} lm_flags)
endfunction()
