# JSARAG_CUDA=AUTO|ON|OFF. AUTO builds the CUDA kernels only where both nvcc and a device exist; ON
# forces them (a wheel for other machines); OFF leaves them out. Sets JSARAG_USE_CUDA,
# JSARAG_CUDA_SOURCES, JSARAG_CUDA_ARCH_NAMES.
set(JSARAG_CUDA "AUTO" CACHE STRING "Build the CUDA kernels: AUTO, ON or OFF")
set_property(CACHE JSARAG_CUDA PROPERTY STRINGS AUTO ON OFF)
# 90a is Hopper with TMA and wgmma; 90-virtual is PTX, which a driver compiles for newer devices.
set(JSARAG_CUDA_ARCHITECTURES "80-real;90a-real;90-virtual" CACHE STRING
                                                              "Architectures of the CUDA kernels")

set(JSARAG_USE_CUDA FALSE)
set(JSARAG_CUDA_SOURCES "")
if(JSARAG_CUDA STREQUAL "ON")
  set(JSARAG_USE_CUDA TRUE)
elseif(JSARAG_CUDA STREQUAL "AUTO")
  find_program(JSARAG_NVCC nvcc HINTS ENV CUDACXX PATHS /usr/local/cuda/bin)
  if(JSARAG_NVCC AND (EXISTS "/dev/nvidiactl" OR EXISTS "/dev/nvidia0"))
    set(JSARAG_USE_CUDA TRUE)
  endif()
elseif(NOT JSARAG_CUDA STREQUAL "OFF")
  message(FATAL_ERROR "JSARAG_CUDA: expected AUTO, ON or OFF, found '${JSARAG_CUDA}'")
endif()

if(JSARAG_USE_CUDA)
  set(CMAKE_CUDA_ARCHITECTURES ${JSARAG_CUDA_ARCHITECTURES})
  # Static: the module must import on a machine without a driver or a toolkit.
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  enable_language(CUDA)
  set(CMAKE_CUDA_STANDARD 17)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  file(GLOB JSARAG_CUDA_SOURCES CONFIGURE_DEPENDS csrc/cuda/*.cu)
  # TMA and wgmma are Hopper's alone: those files are compiled for nothing else.
  set(JSARAG_HOPPER_SOURCES ${JSARAG_CUDA_SOURCES})
  list(FILTER JSARAG_HOPPER_SOURCES INCLUDE REGEX "_wgmma\\.cu$")
  list(FILTER JSARAG_CUDA_SOURCES EXCLUDE REGEX "_wgmma\\.cu$")
endif()
string(REPLACE "-real" "" JSARAG_CUDA_ARCH_NAMES "${JSARAG_CUDA_ARCHITECTURES}")
string(REPLACE ";" "," JSARAG_CUDA_ARCH_NAMES "${JSARAG_CUDA_ARCH_NAMES}")
message(STATUS "jsarag: CUDA kernels ${JSARAG_USE_CUDA} (JSARAG_CUDA=${JSARAG_CUDA})")

# Options, headers and definitions of the CUDA part of a target. A product on Hopper runs CUTLASS's
# TMA + wgmma main loops; CUTLASS comes as the package nvidia-cutlass, headers only.
function(jsarag_add_cuda target)
  target_compile_definitions(${target} PRIVATE
                             JSARAG_CUDA_ARCHITECTURES="${JSARAG_CUDA_ARCH_NAMES}")
  set(options $<$<COMPILE_LANGUAGE:CUDA>:-O3 --expt-relaxed-constexpr -lineinfo>)
  target_compile_options(${target} PRIVATE ${options})
  if(NOT JSARAG_CUDA_ARCHITECTURES MATCHES "90a")
    return()
  endif()
  execute_process(
    COMMAND "${Python_EXECUTABLE}" -c
            "import importlib.util as u; s = u.find_spec('cutlass_library'); print(s.submodule_search_locations[0] if s else '')"
    OUTPUT_VARIABLE library OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(library AND EXISTS "${library}/source/include/cutlass/cutlass.h")
    add_library(${target}_hopper OBJECT ${JSARAG_HOPPER_SOURCES})
    set_target_properties(${target}_hopper PROPERTIES CUDA_ARCHITECTURES 90a-real
                                                      CUDA_VISIBILITY_PRESET hidden)
    target_compile_options(${target}_hopper PRIVATE ${options})
    # With CUTLASS's assertions the kernels hold calls, and ptxas runs wgmma in series around those.
    target_compile_definitions(${target}_hopper PRIVATE NDEBUG)
    target_include_directories(${target}_hopper PRIVATE csrc/include csrc)
    target_include_directories(${target}_hopper SYSTEM PRIVATE "${library}/source/include")
    target_compile_definitions(${target} PRIVATE JSARAG_WITH_CUTLASS=1)
    target_link_libraries(${target} PRIVATE ${target}_hopper)
    return()
  endif()
  set(missing "jsarag: no CUTLASS headers beside ${Python_EXECUTABLE}, which the kernels for sm_90a "
              "are built on. Run `pip install --no-deps nvidia-cutlass`")
  if(JSARAG_CUDA STREQUAL "ON")
    message(FATAL_ERROR ${missing} ", or leave 90a out of JSARAG_CUDA_ARCHITECTURES")
  endif()
  # AUTO promised nothing: large products take the kernels of sm_80.
  message(WARNING ${missing} ", and build again")
endfunction()
