# The CUDA backend as a shared module of its own (kernels/backend.c loads it): liblm-cuda.so.
#   LM_CUDA=AUTO   where nvcc, cudart and cuBLASLt are found; not in sanitizer builds
#   LM_CUDA=ON     or the configuration fails
#   LM_CUDA=OFF    never
# nvcc is called file by file, so that the project needs no CUDA language, nor a C++ compiler, without it.

set(LM_CUDA "AUTO" CACHE STRING "Build the CUDA backend: AUTO, ON or OFF")
set_property(CACHE LM_CUDA PROPERTY STRINGS AUTO ON OFF)
# sm_80 also runs on 8.6 and 8.9, sm_100 on 10.3; compute_100 is PTX for what comes after.
set(LM_CUDA_ARCHS "sm_80;sm_90a;sm_100;compute_100" CACHE STRING "Code that liblm-cuda.so holds")

# What a module needs of the tree besides its kernels, as a copy of its own. It logs nothing: what it has
# to say goes into errors; the log is there for CHECK.
set(LM_MODULE_SUPPORT
  kernels/model_check.c kernels/quant.c kernels/quant_codes.c kernels/quant_iq_grids.c kernels/quant_k.c
  kernels/tensor.c shared/base/backtrace.c shared/base/buf.c shared/base/check.c shared/base/clock.c
  shared/base/error.c shared/base/log.c shared/base/str.c shared/base/utf8.c)

function(lm_module_support)
  if(TARGET lm_module_support)
    return()
  endif()
  list(TRANSFORM LM_MODULE_SUPPORT PREPEND "${CMAKE_SOURCE_DIR}/" OUTPUT_VARIABLE sources)
  add_library(lm_module_support STATIC ${sources})
  target_link_libraries(lm_module_support PUBLIC lm_flags)
  set_target_properties(lm_module_support PROPERTIES
    POSITION_INDEPENDENT_CODE ON INTERPROCEDURAL_OPTIMIZATION OFF C_VISIBILITY_PRESET hidden)
endfunction()

# lm_cuda_module(NAME [OBJECTS files...] LINK libs...): libNAME.so in lib/, with nothing left undefined.
function(lm_cuda_module name)
  cmake_parse_arguments(arg "" "" "OBJECTS;LINK" ${ARGN})
  lm_module_support()
  set(empty "${CMAKE_BINARY_DIR}/${name}.c")
  file(CONFIGURE OUTPUT "${empty}" CONTENT "/* all of it comes from elsewhere */\n")
  add_library(${name} MODULE "${empty}" ${arg_OBJECTS})
  set_target_properties(${name} PROPERTIES LIBRARY_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/lib"
    INTERPROCEDURAL_OPTIMIZATION OFF)
  target_link_libraries(${name} PRIVATE ${arg_LINK} lm_module_support Threads::Threads m ${CMAKE_DL_LIBS})
  target_link_options(${name} PRIVATE "-Wl,--no-undefined"
    "-Wl,--version-script=${CMAKE_SOURCE_DIR}/cmake/lm_module.map")
endfunction()

if(NOT LM_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "LM_CUDA is '${LM_CUDA}'; AUTO, ON and OFF exist")
endif()
if(LM_CUDA STREQUAL "OFF" OR (LM_CUDA STREQUAL "AUTO" AND LM_SANITIZE))
  return()
endif()

find_program(LM_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES bin)
if(LM_NVCC)
  get_filename_component(cuda_root "${LM_NVCC}" REALPATH)
  get_filename_component(cuda_root "${cuda_root}/../.." ABSOLUTE)
endif()
find_library(LM_CUDART cudart_static HINTS "${cuda_root}" PATH_SUFFIXES lib64 lib)
find_library(LM_CUBLASLT cublasLt HINTS "${cuda_root}" PATH_SUFFIXES lib64 lib)
find_path(LM_CUDA_INCLUDE cublasLt.h HINTS "${cuda_root}" PATH_SUFFIXES include)
find_path(LM_NCCL_INCLUDE nccl.h HINTS "${cuda_root}" PATH_SUFFIXES include)
set(missing)
foreach(part LM_NVCC LM_CUDART LM_CUBLASLT LM_CUDA_INCLUDE LM_NCCL_INCLUDE)
  if(NOT ${part})
    list(APPEND missing ${part})
  endif()
endforeach()
if(missing)
  if(LM_CUDA STREQUAL "ON")
    message(FATAL_ERROR "LM_CUDA=ON, but not found: ${missing}")
  endif()
  message(STATUS "CUDA: not built (not found: ${missing})")
  return()
endif()

set(gencode)
foreach(arch IN LISTS LM_CUDA_ARCHS)
  string(REGEX REPLACE "^(sm|compute)_" "compute_" virtual "${arch}")
  list(APPEND gencode -gencode "arch=${virtual},code=${arch}")
endforeach()
set(LM_NVCC_FLAGS -std=c++20 -O3 -fmad=false -lineinfo -Xptxas -v -Xcompiler -fPIC,-fvisibility=hidden,-Wall
  "-I${CMAKE_SOURCE_DIR}" "-I${LM_NCCL_INCLUDE}" -D_GNU_SOURCE)

file(GLOB cuda_sources CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/kernels/cuda/*.cu")
set(cuda_objects)
foreach(source IN LISTS cuda_sources)
  get_filename_component(stem "${source}" NAME_WE)
  set(object "${CMAKE_BINARY_DIR}/cuda/${stem}.o")
  add_custom_command(OUTPUT "${object}"
    COMMAND ${CMAKE_COMMAND} -E make_directory "${CMAKE_BINARY_DIR}/cuda"
    COMMAND "${CMAKE_SOURCE_DIR}/scripts/nvcc-logged" "${object}.ptxas" "${LM_NVCC}" ${LM_NVCC_FLAGS} ${gencode}
      -MD -MF "${object}.d" -c "${source}" -o "${object}"
    DEPENDS "${source}" "${CMAKE_SOURCE_DIR}/scripts/nvcc-logged" DEPFILE "${object}.d" COMMENT "Building CUDA object cuda/${stem}.o" VERBATIM)
  list(APPEND cuda_objects "${object}")
endforeach()
set_source_files_properties(${cuda_objects} PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
lm_cuda_module(lm-cuda OBJECTS ${cuda_objects} LINK "${LM_CUDART}" "${LM_CUBLASLT}" stdc++ rt)
message(STATUS "CUDA: ${LM_NVCC}, ${LM_CUDA_ARCHS}")
