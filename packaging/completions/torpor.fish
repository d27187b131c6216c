# fish completion for torpor(1)

function __torpor_names
	for path in /etc/torpor/*.yaml
		string replace -r '.*/(.*)\.yaml$' '$1' $path
	end
end

function __torpor_verb
	set -l words (commandline -opc)
	test (count $words) -gt 1; and contains -- $words[2] $argv
end

complete -c torpor -f
complete -c torpor -n __fish_use_subcommand -l help -d 'help'
complete -c torpor -n __fish_use_subcommand -l version -d 'version'
for pair in 'status:show containers' 'new:write the definition of a new container' 'logs:show what a container has said' \
	'exec:run a program in a running container' 'top:show what containers take of the host' \
	'inspect:show what images hold' 'diff:compare two generations' 'history:show each state it was in' \
	'check:check a definition' 'render:print the OCI configuration' \
	'apply:apply resources to a running container' 'stop:stop for real, once' \
	'snapshot:keep a moment of a running container' 'rollback:go back to a snapshot' \
	'discard:forget the memory of a sleeping container' 'export:write a container to one file' \
	'import:make a container of such a file' 'migrate:move a container to another host' \
	'metrics:print what is known for Prometheus' 'doctor:check this host' 'hooks:add OCI hooks to a bundle'
	set -l parts (string split -m 1 : $pair)
	complete -c torpor -n __fish_use_subcommand -a $parts[1] -d $parts[2]
end
complete -c torpor -n '__torpor_verb status logs exec top inspect diff history check render apply stop snapshot rollback discard export migrate' -a '(__torpor_names)'
complete -c torpor -n '__torpor_verb inspect export import hooks' -F
complete -c torpor -n '__torpor_verb status inspect diff history doctor hooks' -l json -d 'for programs'
complete -c torpor -n '__torpor_verb new' -l from -r -d 'an image'
complete -c torpor -n '__torpor_verb new' -l rootfs -r -d 'a root of its own'
complete -c torpor -n '__torpor_verb new' -l bundle -r -d 'an OCI bundle'
complete -c torpor -n '__torpor_verb new' -l podman -x -d 'one of podman'
complete -c torpor -n '__torpor_verb exec' -l user -x -d 'who runs it'
complete -c torpor -n '__torpor_verb exec' -l workdir -x -d 'where it begins'
complete -c torpor -n '__torpor_verb exec' -l no-tty -d 'no terminal'
complete -c torpor -n '__torpor_verb inspect discard' -l generation -x -d 'which'
complete -c torpor -n '__torpor_verb inspect' -l verify -d 'compare checksums'
complete -c torpor -n '__torpor_verb check' -l checkpoint -d 'would it sleep?'
complete -c torpor -n '__torpor_verb stop' -l fresh -d 'without sleeping'
complete -c torpor -n '__torpor_verb rollback' -l stop -d 'stop it first'
complete -c torpor -n '__torpor_verb export' -l running -d 'a moment of one that goes on'
complete -c torpor -n '__torpor_verb export' -l snapshot -x -d 'which'
complete -c torpor -n '__torpor_verb export' -l base-image -x -d 'for podman'
complete -c torpor -n '__torpor_verb export' -l sign -r -d 'key'
complete -c torpor -n '__torpor_verb export import migrate' -l image -r -d 'image'
complete -c torpor -n '__torpor_verb import migrate' -l rootfs -r -d 'where its root is'
complete -c torpor -n '__torpor_verb import' -l trust -d 'whoever made it'
complete -c torpor -n '__torpor_verb import' -l replace -d 'in place of one'
complete -c torpor -n '__torpor_verb migrate' -l pre-dump -x -d 'rounds of copying'
complete -c torpor -n '__torpor_verb migrate' -l asleep -d 'do not wake it'
complete -c torpor -n '__torpor_verb migrate' -l again -d 'find out how it ended'
complete -c torpor -n '__torpor_verb migrate' -l stay -d 'it is here'
complete -c torpor -n '__torpor_verb metrics' -l output -r -d 'a file'
complete -c torpor -n '__torpor_verb hooks' -a 'add remove list'
complete -c torpor -n '__torpor_verb hooks' -l slice -x -d 'slice'
complete -c torpor -n '__torpor_verb hooks' -l systemd -d 'as PID 1'
complete -c torpor -n '__torpor_verb hooks' -l network -x -d 'network'
